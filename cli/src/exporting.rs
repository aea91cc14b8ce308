//! Images of a point served until somebody says so or their time is over: what lies over them,
//! who may connect, and what is told in the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use strongroom_certs::{Credential, CurrentCredential, Revocations, server_config};
use strongroom_present::export::{
    Device, Guarded, Image, Listen, Overlay, Server, Tally, Told, Written,
};
use strongroom_present::reader::{BYTES_MAX, Reader};
use strongroom_protocol::{Clock, NodeName, Role, Timestamp};
use strongroom_store::content::Node;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, While};
use crate::ground::Chosen;
use crate::human;
use crate::lease::Lease;
use crate::scene::Scene;
use crate::session::Session;

/// How often the time is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often the certificate and what was revoked are read again, in ticks.
const RENEWED_TICKS: u32 = 60;

/// An overlay that is wanted, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Above {
    pub(crate) path: PathBuf,
    /// Anew from now on; what is left of it otherwise.
    pub(crate) lease: Option<Lease>,
}

/// Opens images as devices; one that is written to has an overlay. Blocking. Returns when the
/// overlay's lease ends.
pub(crate) fn devices(
    scene: &Scene,
    images: &[Chosen],
    above: Option<&Above>,
    now: Timestamp,
) -> Result<(Vec<Arc<Device>>, Option<Timestamp>), Failure> {
    let reader = Reader::new(Arc::clone(scene.tree.source()), BYTES_MAX)?;
    let point = scene.manifest.head.point;
    let (mut devices, mut until) = (Vec::new(), None);
    for chosen in images {
        let Node::File { size, content } = &chosen.entry.node else { continue };
        let overlay = match above {
            None => None,
            Some(above) => {
                let end = end_of(above, now)?;
                until = Some(end);
                let hash = *blake3::hash(&chosen.path).as_bytes();
                let head = Overlay::head(point, hash, *size, end);
                Some(Overlay::open(&above.path, head)?)
            }
        };
        let image = Image::new(reader.open(*size, content));
        let moment = scene.manifest.head.moment;
        let about = format!("/{} of point {}, {moment}", human::name(&chosen.path), point.short());
        devices.push(Arc::new(Device::new(chosen.name.clone(), about, image, overlay)));
    }
    Ok((devices, until))
}

/// When the lease of an overlay ends: one that is named anew begins now.
fn end_of(above: &Above, now: Timestamp) -> Result<Timestamp, Failure> {
    let known = Overlay::look(&above.path)?;
    match (above.lease, known) {
        (Some(lease), _) => Ok(lease.end(now)),
        (None, None) => Ok(Lease::default().end(now)),
        (None, Some(head)) if head.until > now => Ok(head.until),
        (None, Some(head)) => {
            let text = format!("the lease of {} ended at {}", above.path.display(), head.until);
            Err(Failure::new(text).hint("name a new one with --for, or remove the overlay"))
        }
    }
}

/// Who may connect from other hosts, and the certificate they are shown.
pub(crate) struct Watch {
    dir: PathBuf,
    current: CurrentCredential,
    revoked: Arc<Revocations>,
    pub(crate) guarded: Guarded,
}

impl Watch {
    /// By the certificate of the node whose home is `dir`; `nodes` may connect beside operators.
    pub(crate) fn open(
        dir: &Path,
        nodes: Vec<NodeName>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        let credential = Credential::load(dir)
            .doing(format!("cannot use the certificate in {}", dir.display()))?;
        let identity = credential.identity();
        if !matches!(identity.role, Role::Coordinator | Role::Proxy) {
            return Err(Failure::new(format!("{identity} may not serve anybody"))
                .hint("name the home of a coordinator or a proxy with --identity"));
        }
        let current = CurrentCredential::new(&credential)?;
        let revoked = Arc::new(Revocations::in_memory());
        let config = server_config(&current, &credential.root, &[], Arc::clone(&revoked), clock)?;
        let guarded = Guarded { config: Arc::new(config), nodes };
        let watch = Self { dir: dir.to_owned(), current, revoked, guarded };
        watch.renew()?;
        Ok(watch)
    }

    /// Reads again what the node may have renewed, and what was revoked.
    fn renew(&self) -> Result<(), Failure> {
        self.current.replace(&Credential::load(&self.dir)?)?;
        Ok(self.revoked.merge(&Revocations::open(&self.dir.join("revoked.json"))?.list())?)
    }
}

/// How an export ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Its time was over.
    Lease,
    /// Somebody said so.
    Told,
}

/// Serves until `stop`, or until the time is over.
pub(crate) async fn serve(
    session: &Session,
    server: Server,
    until: Option<Timestamp>,
    watch: Option<&Watch>,
    stop: &CancellationToken,
) -> Over {
    let running = server.run();
    tokio::pin!(running);
    let (mut tick, mut ticks) = (tokio::time::interval(TICK), 0_u32);
    let mut over = Over::Told;
    loop {
        tokio::select! {
            () = &mut running => return over,
            _ = tick.tick() => {}
        }
        ticks = ticks.wrapping_add(1);
        let ended = until.is_some_and(|until| session.clock.now() >= until);
        if ended && !stop.is_cancelled() {
            over = Over::Lease;
            stop.cancel();
        }
        if let Some(watch) = watch.filter(|_| ticks.is_multiple_of(RENEWED_TICKS))
            && let Err(failure) = watch.renew()
        {
            session.out.remark(&format!("the certificate cannot be renewed: {failure}"));
        }
    }
}

/// Makes durable what was written to each device, and says how much that is.
pub(crate) fn settle(devices: &[Arc<Device>]) -> Result<Vec<(String, Written)>, Failure> {
    let mut all = Vec::new();
    for device in devices {
        device.flush()?;
        if let Some(written) = device.written() {
            all.push((device.offer().name.clone(), written));
        }
    }
    Ok(all)
}

/// How a device is named to clients at `place`.
pub(crate) fn uri(place: &Listen, name: &str, encrypted: bool) -> String {
    let name = quoted(name, "/");
    match place {
        Listen::Unix(path) => {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            format!("nbd+unix:///{name}?socket={}", quoted(&path.to_string_lossy(), "/"))
        }
        Listen::Address(address) => {
            format!("{}://{address}/{name}", if encrypted { "nbds" } else { "nbd" })
        }
    }
}

/// A text as part of a URI.
fn quoted(text: &str, more: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut out = String::new();
    for byte in text.bytes() {
        match plain(byte) || more.as_bytes().contains(&byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// What is told once it listens.
pub(crate) fn begun(
    session: &Session,
    place: &Listen,
    devices: &[Arc<Device>],
    until: Option<Timestamp>,
    encrypted: bool,
) -> Result<(), Failure> {
    let offers: Vec<_> = devices.iter().map(|device| device.offer()).collect();
    let exports = offers.iter().map(|offer| {
        json!({
            "name": offer.name, "bytes": offer.bytes, "writable": offer.writable,
            "uri": uri(place, &offer.name, encrypted),
        })
    });
    let exports: Vec<Value> = exports.collect();
    if session.out.is_json() {
        let until = until.map(|until| until.to_string());
        let told = json!({ "listening": place.to_string(), "exports": exports, "until": until });
        return Ok(session.out.json_line(&told)?);
    }
    let mut text = String::new();
    for (offer, told) in offers.iter().zip(&exports) {
        let how = if offer.writable { "written to an overlay" } else { "read-only" };
        let uri = told["uri"].as_str().unwrap_or_default();
        let bytes = human::bytes(offer.bytes);
        text.push_str(&format!("{}: {bytes}, {how}, at {uri}\n", offer.name));
    }
    if let Some(until) = until {
        let zone = &session.out.face().zone;
        text.push_str(&format!("until {}; Ctrl-C ends it earlier\n", human::moment(until, zone)));
    }
    Ok(session.out.text(&text)?)
}

/// What is told in the end.
pub(crate) fn ended(
    session: &Session,
    over: Over,
    tally: &Tally,
    written: &[(String, Written)],
    fate: Option<&str>,
) -> Result<(), Failure> {
    let Told { connections, refused, read_bytes, failures, reasons } = tally.told();
    let each = written.iter().map(|(name, written)| {
        json!({
            "name": name, "own_bytes": written.own_bytes, "written_bytes": written.written_bytes,
        })
    });
    let each: Vec<Value> = each.collect();
    if session.out.is_json() {
        let over = if over == Over::Lease { "lease" } else { "told" };
        return Ok(session.out.json_line(&json!({
            "ended": over, "connections": connections, "refused": refused,
            "read_bytes": read_bytes, "failures": failures, "reasons": reasons,
            "written": each, "overlay": fate,
        }))?);
    }
    let mut text = format!("{connections} connections, {} read\n", human::bytes(read_bytes));
    for (name, written) in written {
        let (all, own) = (human::bytes(written.written_bytes), human::bytes(written.own_bytes));
        text.push_str(&format!("{name}: {all} written; the overlay holds {own}\n"));
    }
    if over == Over::Lease {
        text.insert_str(0, "the lease is over\n");
    }
    if let Some(fate) = fate {
        text.push_str(&format!("the overlay was {fate}\n"));
    }
    session.out.text(&text)?;
    if failures > 0 {
        session.out.remark(&format!("{failures} requests failed:"));
    }
    reasons.iter().for_each(|why| session.out.remark(&format!("  {why}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_clients_take_them() {
        let unix = Listen::Unix("/run/a b.sock".into());
        assert_eq!(uri(&unix, "vda", false), "nbd+unix:///vda?socket=/run/a%20b.sock");
        let address = Listen::Address("192.0.2.1:10809".parse().unwrap());
        assert_eq!(uri(&address, "a/ü?", true), "nbds://192.0.2.1:10809/a/%C3%BC%3F");
    }

    #[test]
    fn a_lease_goes_on_where_it_was_unless_it_is_named_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("overlay");
        let now = Timestamp::from_unix_seconds(1_000_000);
        let above = |lease| Above { path: path.clone(), lease };
        let later = end_of(&above(None), now).unwrap();
        assert_eq!(later.seconds_since(now), crate::lease::USUAL_SECONDS);
        let point = strongroom_protocol::PointId::from_bytes([1; 16]);
        let end = now.plus_seconds(100);
        drop(Overlay::open(&path, Overlay::head(point, [0; 32], 8192, end)).unwrap());
        assert_eq!(end_of(&above(None), now).unwrap(), end);
        let refused = end_of(&above(None), now.plus_seconds(100)).unwrap_err().to_string();
        assert!(refused.contains("--for"), "{refused}");
        let anew = crate::lease::lease("1h").ok();
        assert_eq!(end_of(&above(anew), end).unwrap(), end.plus_seconds(3600));
    }
}
