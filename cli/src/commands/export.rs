//! `export`: disk images of a point served as network block devices (NBD), from any copy, until
//! somebody ends it or its time is over.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use strongroom_node::run::stop_on_signal;
use strongroom_present::export::{Listen, Overlay, Server};
use strongroom_protocol::NodeName;
use strongroom_protocol::admin::PointRef;
use tokio_util::sync::CancellationToken;

use crate::commands::restore::CopyArgs;
use crate::exporting::{Above, Over, Watch, begun, devices, ended, serve, settle};
use crate::failure::{Ending, Failure};
use crate::ground::{Choice, Ground};
use crate::lease::{Lease, lease};
use crate::point_at::point;
use crate::session::{Session, blocking};

/// Serve disk images of a point as network block devices (NBD)
#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// A point: an id, its last 8 digits, or latest:WORKLOAD
    #[arg(value_name = "POINT", value_parser = point())]
    point: PointRef,
    /// Only this disk of a machine; may be repeated
    #[arg(long, value_name = "NAME", conflicts_with = "path")]
    disk: Vec<String>,
    /// This file of the point, whatever the point is of; may be repeated
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
    /// Where to listen: unix:PATH, or ADDRESS:PORT
    #[arg(long, value_name = "PLACE")]
    listen: Listen,
    #[command(flatten)]
    copy: CopyArgs,
    /// Let clients write; what they write goes into this file
    #[arg(long, value_name = "FILE")]
    overlay: Option<PathBuf>,
    /// End after so long (90s, 2h, 7d), and delete the overlay; with an overlay, 24h unless said
    #[arg(long, value_name = "TIME", value_parser = lease)]
    r#for: Option<Lease>,
    /// Keep the overlay when its time is over
    #[arg(long, requires = "overlay")]
    keep: bool,
    /// The home of the coordinator or proxy by whose certificate other hosts are served
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// A node, of any site and role, that may connect from another host; may be repeated
    #[arg(long, value_name = "NODE", requires = "identity")]
    client: Vec<NodeName>,
}

impl ExportArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        let watch = self.watch(session)?;
        let stop = CancellationToken::new();
        let choice = match self.path.is_empty() {
            true => Choice::Disks(self.disk.clone()),
            false => Choice::Paths(self.path.clone()),
        };
        let ground = Ground::open(session, &self.copy, &self.point, &choice, stop.clone()).await?;
        ground.lacking.iter().for_each(|line| session.out.remark(line));
        let (scene, now) = (ground.scene.clone(), session.clock.now());
        let above = self.overlay.clone().map(|path| Above { path, lease: self.r#for });
        let (devices, until) = blocking(move || {
            let images = Ground::images(&scene, &choice)?;
            if above.is_some() && images.len() != 1 {
                let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
                return Err(Failure::usage("an overlay lies over one disk")
                    .hint(format!("choose with --disk: {}", names.join(", "))));
            }
            devices(&scene, &images, above.as_ref(), now)
        })
        .await?;
        let until = until.or_else(|| self.r#for.map(|lease| lease.end(now)));
        let guarded = watch.as_ref().map(|watch| watch.guarded.clone());
        let server = Server::bind(&self.listen, devices.clone(), guarded, stop.clone()).await?;
        stop_on_signal(stop.clone());
        begun(session, &server.place()?, &devices, until, watch.is_some())?;
        let tally = server.tally();
        let over = serve(session, server, until, watch.as_ref(), &stop).await;
        // Held until the overlay's fate is settled: nobody else may have it before.
        let held = devices.clone();
        let written = blocking(move || settle(&devices)).await?;
        let fate = self.fate(over)?;
        drop(held);
        ended(session, over, &tally, &written, fate)?;
        drop(ground);
        let whole = tally.told().failures == 0;
        Ok(if whole { Ending::Done } else { Ending::Gaps })
    }

    /// By what certificate it is served; none where it stays on this host.
    fn watch(&self, session: &Session) -> Result<Option<Watch>, Failure> {
        match &self.identity {
            Some(dir) => {
                let clock = Arc::clone(&session.clock);
                Watch::open(dir, self.client.clone(), clock).map(Some)
            }
            None if self.listen.stays_here() => Ok(None),
            None => Err(Failure::usage(format!(
                "{} can be reached from other hosts, and is served encrypted only",
                self.listen
            ))
            .hint("name the home of this site's coordinator or proxy with --identity DIR")),
        }
    }

    /// What becomes of the overlay: it goes when its time is over, unless it is to be kept.
    fn fate(&self, over: Over) -> Result<Option<&'static str>, Failure> {
        match &self.overlay {
            None => Ok(None),
            Some(path) if over == Over::Lease && !self.keep => {
                Overlay::remove(path)?;
                Ok(Some("deleted"))
            }
            Some(_) => Ok(Some("kept")),
        }
    }
}
