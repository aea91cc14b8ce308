//! What lies in a point, a line each: as `ls -l` for people, as one JSON object for machines.

use serde_json::{Value, json};
use strongroom_protocol::Timestamp;
use strongroom_store::content::{Entry, Node};

use crate::human;
use crate::output::Face;

/// `drwxr-xr-x  0:0  4.0 KiB  2026-11-22 22:18  name`.
pub(crate) fn entry_line(path: &[u8], entry: &Entry, face: &Face) -> String {
    let meta = &entry.meta;
    let size = match &entry.node {
        Node::File { size, .. } => human::bytes(*size),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            format!("{major},{minor}")
        }
        _ => "-".to_owned(),
    };
    let owner = format!("{}:{}", meta.uid, meta.gid);
    let moment = human::moment(Timestamp(meta.mtime_ns), &face.zone);
    let mode = human::mode(kind_char(&entry.node), meta.mode);
    let mut line = format!("{mode} {owner:>11} {size:>9} {moment} {}", human::name(path));
    match &entry.node {
        Node::Directory { .. } => line.push('/'),
        Node::Symlink { target } => line.push_str(&format!(" -> {}", human::name(target))),
        _ => {}
    }
    line
}

/// The same for machines. Paths are text where they are UTF-8; `path_bytes` is given otherwise.
pub(crate) fn entry_json(path: &[u8], entry: &Entry) -> Value {
    let meta = &entry.meta;
    let mut value = json!({
        "path": String::from_utf8_lossy(path),
        "kind": kind_word(&entry.node),
        "mode": meta.mode,
        "uid": meta.uid,
        "gid": meta.gid,
        "mtime_ns": meta.mtime_ns,
    });
    let mut fields = value.as_object_mut();
    let mut set =
        |name: &str, value: Value| fields.as_deref_mut().map(|f| f.insert(name.to_owned(), value));
    if std::str::from_utf8(path).is_err() {
        set("path_bytes", json!(path));
    }
    match &entry.node {
        Node::File { size, .. } => set("size", json!(size)),
        Node::Symlink { target } => set("target", json!(String::from_utf8_lossy(target))),
        _ => None,
    };
    value
}

const fn kind_char(node: &Node) -> char {
    match node {
        Node::Directory { .. } => 'd',
        Node::File { .. } => '-',
        Node::Symlink { .. } => 'l',
        Node::Fifo => 'p',
        Node::Socket => 's',
        Node::CharDevice { .. } => 'c',
        Node::BlockDevice { .. } => 'b',
    }
}

/// The word for a kind of entry.
pub(crate) const fn kind_word(node: &Node) -> &'static str {
    match node {
        Node::Directory { .. } => "directory",
        Node::File { .. } => "file",
        Node::Symlink { .. } => "symlink",
        Node::Fifo => "fifo",
        Node::Socket => "socket",
        Node::CharDevice { .. } => "character device",
        Node::BlockDevice { .. } => "block device",
    }
}
