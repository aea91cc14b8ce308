//! `media`: what cartridges there are and what lies on them; asked at a node, or read here from
//! the cartridges themselves when no node is left.

mod keep;
pub(crate) mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom_protocol::admin::{MediumRow, Response};

use crate::failure::{Ending, Failure};
use crate::human;
use crate::output::Face;
use crate::secrets::OpenerArgs;
use crate::session::{Session, blocking};
use crate::shelf::{MediaPoint, Shelf};
use crate::show::{Align, Sheet};

/// Cartridges, and the points on them
#[derive(Args, Debug)]
pub(crate) struct MediaArgs {
    #[command(subcommand)]
    order: MediaOrder,
}

#[derive(Subcommand, Debug)]
enum MediaOrder {
    /// List the cartridges of a site and where each is, or those of a library's directory
    #[command(visible_alias = "ls")]
    List {
        /// Read the cartridges in this directory, without any node
        #[arg(long, value_name = "DIR")]
        media: Option<PathBuf>,
    },
    /// List the points on cartridges, without any node; with a key, their names too
    Points {
        /// The library's directory
        #[arg(long, value_name = "DIR")]
        media: PathBuf,
        #[command(flatten)]
        opener: OpenerArgs,
    },
    /// Read every block of cartridges and check every file, without any node or key
    Verify {
        /// The library: its directory, or iscsi://HOST/TARGET
        #[arg(long, value_name = "LIBRARY")]
        media: PathBuf,
        /// These cartridges; all that are here if none is named
        #[arg(value_name = "BARCODE")]
        barcodes: Vec<String>,
    },
    #[command(flatten)]
    Keep(keep::KeepOrder),
}

impl MediaArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<Ending, Failure> {
        match self.order {
            MediaOrder::List { media: None } => keep::list(session).await,
            MediaOrder::Keep(order) => order.run(session).await,
            MediaOrder::List { media: Some(dir) } => {
                let rows = blocking(move || Ok(media_rows(&Shelf::open(&dir)?))).await?;
                session.out.answer(&Response::Media(rows))?;
                Ok(Ending::Done)
            }
            MediaOrder::Points { media, opener } => {
                let opener = opener.is_given().then(|| opener.opener()).transpose()?;
                let points = blocking(move || Shelf::open(&media)?.points(opener.as_ref())).await?;
                let value: Vec<_> = points.iter().map(json).collect();
                session.out.either(&value, |face| table(&points, face))?;
                Ok(Ending::Done)
            }
            MediaOrder::Verify { media, barcodes } => {
                let out = session.out.clone();
                blocking(move || verify::run(&Shelf::open(&media)?, &barcodes, &out)).await
            }
        }
    }
}

fn media_rows(shelf: &Shelf) -> Vec<MediumRow> {
    let row = |medium: strongroom_store::media::MediumInfo| MediumRow {
        medium: Some(medium.medium),
        barcode: medium.barcode.to_string(),
        set: Some(medium.set),
        sequence: medium.sequence,
        sessions: u32::try_from(medium.sessions.len()).unwrap_or(u32::MAX),
        points: u32::try_from(medium.points).unwrap_or(u32::MAX),
        used_bytes: medium.bytes,
        capacity_bytes: 0,
        detail: format!("{:?}", medium.health).to_lowercase(),
    };
    shelf.media().into_iter().map(row).collect()
}

fn json(point: &MediaPoint) -> serde_json::Value {
    let body = point.manifest.as_ref().map(|manifest| &manifest.body);
    serde_json::json!({
        "id": point.point,
        "repository": point.repo,
        "workload": body.map(|body| &body.workload_name),
        "workload_id": point.workload,
        "moment": point.moment,
        "files": body.map(|body| body.stats.files),
        "bytes": body.map(|body| body.stats.bytes),
        "cartridges": point.barcodes,
    })
}

fn table(points: &[MediaPoint], face: &Face) -> String {
    let columns = [
        ("POINT", Align::Left),
        ("WORKLOAD", Align::Left),
        ("MOMENT", Align::Left),
        ("FILES", Align::Right),
        ("SIZE", Align::Right),
        ("CARTRIDGES", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no points on these cartridges", face);
    for point in points {
        let body = point.manifest.as_ref().map(|manifest| &manifest.body);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let barcodes: Vec<&str> = point.barcodes.iter().map(String::as_str).collect();
        sheet.row([
            point.point.short(),
            body.map_or_else(|| point.workload.short(), |body| body.workload_name.to_string()),
            human::moment(point.moment, &face.zone),
            or_dash(body.map(|body| human::count(body.stats.files))),
            or_dash(body.map(|body| human::bytes(body.stats.bytes))),
            barcodes.join(" "),
        ]);
    }
    sheet.finish()
}
