//! The applications of a policy file: which keys each kind has, and what may stand there. What
//! a key means is for the agent's room of that kind; no key holds a secret.

use strongroom_protocol::control::AppKind;

use crate::policy::sheet::{Section, Sheet};
use crate::policy::{AppSource, Seconds};

/// A key of a kind.
struct Key {
    key: &'static str,
    shape: Shape,
    /// An example, where the key may not be left out.
    wanted: Option<&'static str>,
}

/// What may stand at a key.
enum Shape {
    /// A duration.
    Duration,
    /// One text or a list of texts.
    List,
    /// A whole number.
    Number,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An absolute path on the agent's host.
    Path,
    /// Any text.
    Text,
}

const fn may(key: &'static str, shape: Shape) -> Key {
    Key { key, shape, wanted: None }
}

const fn must(key: &'static str, shape: Shape, example: &'static str) -> Key {
    Key { key, shape, wanted: Some(example) }
}

/// The first of a table is what the workload is pointed at.
const POSTGRES: &[Key] = &[
    must("host", Shape::Text, "host = \"/var/run/postgresql\""),
    may("mode", Shape::OneOf(&["direct", "wal", "wire"])),
    may("by", Shape::OneOf(&["files", "stream"])),
    may("tls", Shape::OneOf(&["off", "verify"])),
    may("ca_file", Shape::Path),
    may("data", Shape::Path),
    may("port", Shape::Number),
    may("user", Shape::Text),
    may("database", Shape::Text),
    may("password_file", Shape::Path),
    may("prefer", Shape::OneOf(&["any", "primary", "prefer-standby", "standby-only"])),
    may("max_lag", Shape::Duration),
    may("slot", Shape::Text),
];
const DIRECTORY: &[Key] = &[
    must("url", Shape::Text, "url = \"ldaps://dc1.example.com\""),
    must("bind", Shape::Text, "bind = \"backup@example.com\""),
    must("password_file", Shape::Path, "password_file = \"/etc/strongroom/ad-password\""),
    may("ca_file", Shape::Path),
    may("domain", Shape::OneOf(&["none", "online", "offline"])),
    may("samba_config", Shape::Path),
    may("exclude", Shape::List),
];
const MARIADB: &[Key] = &[
    must("host", Shape::Text, "host = \"/run/mysqld/mysqld.sock\""),
    may("port", Shape::Number),
    may("user", Shape::Text),
    may("password_file", Shape::Path),
    may("data", Shape::Path),
    may("way", Shape::OneOf(&["auto", "snapshot", "stream"])),
    may("program", Shape::Path),
    may("lock_wait", Shape::Duration),
    may("freeze_deadline", Shape::Duration),
];
const VM: &[Key] = &[
    must("machine", Shape::Text, "machine = \"web1\""),
    may("libvirt", Shape::Text),
    may("qmp", Shape::Path),
    may("guest_agent", Shape::Path),
    may("quiesce", Shape::OneOf(&["required", "wanted", "never"])),
    may("freeze_deadline", Shape::Duration),
    may("exclude", Shape::List),
    may("keep", Shape::List),
    may("scratch", Shape::Path),
];
/// What the connection of a libvirt begins with that is the agent's own host's.
const LIBVIRTS: [&str; 2] = ["qemu:///", "qemu+unix:///"];
const VSPHERE: &[Key] = &[
    must("machine", Shape::Text, "machine = \"web1\""),
    must("url", Shape::Text, "url = \"https://vcenter.example.com\""),
    must("user", Shape::Text, "user = \"backup@vsphere.local\""),
    must("password_file", Shape::Path, "password_file = \"/etc/strongroom/vsphere-password\""),
    may("thumbprint", Shape::Text),
    may("ca_file", Shape::Path),
    may("quiesce", Shape::OneOf(&["required", "wanted", "never"])),
    may("change_tracking", Shape::OneOf(&["used", "enabled"])),
    may("exclude", Shape::List),
];

const fn table(kind: AppKind) -> &'static [Key] {
    match kind {
        AppKind::Directory => DIRECTORY,
        AppKind::Mariadb => MARIADB,
        AppKind::Postgres => POSTGRES,
        AppKind::Vm => VM,
        AppKind::Vsphere => VSPHERE,
    }
}

/// The keys a workload of this kind may have, beside what all have.
pub(super) fn keys(kind: AppKind) -> impl Iterator<Item = &'static str> {
    table(kind).iter().map(|key| key.key)
}

/// Keys that are of a member of a cluster, and not of the cluster.
const OF_MEMBERS: [&str; 8] =
    ["host", "tls", "ca_file", "data", "port", "user", "database", "password_file"];

/// The keys a member may have, beside its agent.
pub(super) fn keys_of_members() -> impl Iterator<Item = &'static str> {
    OF_MEMBERS.into_iter()
}

/// What the section says of an application of this kind.
pub(super) fn read(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    kind: AppKind,
) -> Option<AppSource> {
    let reached = kind != AppKind::Vm || reached(sheet, section).is_some();
    let settings = settings(sheet, section, kind, |_| None)?;
    reached.then_some(AppSource { kind, settings })
}

/// A machine is reached in one way: by its own monitor or through libvirt, which has the
/// monitor and the guest agent to itself.
fn reached(sheet: &mut Sheet<'_>, section: &Section<'_>) -> Option<()> {
    let Some(libvirt) = sheet.word(section, "libvirt") else {
        if sheet.word(section, "qmp").is_some() {
            return Some(());
        }
        let example = "qmp = \"/run/vm/web1.qmp\", or libvirt = \"qemu:///system\"";
        sheet.missing(section, "qmp", example);
        return None;
    };
    if !LIBVIRTS.iter().any(|local| libvirt.text.starts_with(local)) {
        let message = format!("{:?} is no libvirt of the agent's own host", libvirt.text);
        let hint = "such as libvirt = \"qemu:///system\"; let an agent on the machine's host \
                    protect it";
        sheet.wrong(&libvirt.span, message, Some(hint.to_owned()));
        return None;
    }
    for key in ["qmp", "guest_agent"] {
        if let Some(word) = sheet.word(section, key) {
            let message = format!("`{key}` cannot be used beside `libvirt`");
            let hint = "libvirt has the machine's monitor and guest agent to itself: leave it out";
            sheet.wrong(&word.span, message, Some(hint.to_owned()));
            return None;
        }
    }
    Some(())
}

/// What the section of a cluster says of all its members.
pub(super) fn read_shared(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    kind: AppKind,
) -> Option<Vec<(String, String)>> {
    settings(sheet, section, kind, |_| Some(Vec::new()))
}

/// What the section of a member says, and, where it says nothing, that of its cluster.
pub(super) fn read_member(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    kind: AppKind,
    shared: &[(String, String)],
) -> Option<Vec<(String, String)>> {
    settings(sheet, section, kind, |key| {
        let said: Vec<String> =
            shared.iter().filter(|(of, _)| of == key).map(|(_, value)| value.clone()).collect();
        (!said.is_empty()).then_some(said)
    })
}

/// Every key of a kind in the order of its table; `otherwise` says what stands where the section
/// says nothing.
fn settings(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    kind: AppKind,
    otherwise: impl Fn(&str) -> Option<Vec<String>>,
) -> Option<Vec<(String, String)>> {
    let mut settings = Vec::new();
    let mut whole = true;
    for Key { key, shape, wanted } in table(kind) {
        let said = match section.table.get(*key) {
            Some(_) => {
                let said = values(sheet, section, key, shape);
                whole &= said.is_some();
                said
            }
            None => {
                let said = otherwise(key);
                if let (None, Some(example)) = (&said, wanted) {
                    sheet.missing(section, key, example);
                    whole = false;
                }
                said
            }
        };
        settings.extend(said.unwrap_or_default().into_iter().map(|v| ((*key).to_owned(), v)));
    }
    whole.then_some(settings)
}

fn values(
    sheet: &mut Sheet<'_>,
    section: &Section<'_>,
    key: &str,
    shape: &Shape,
) -> Option<Vec<String>> {
    let one = |text: String| Some(vec![text]);
    match shape {
        Shape::Duration => {
            let Seconds(seconds) = sheet.value::<Seconds>(section, key)?;
            one(seconds.to_string())
        }
        Shape::List => {
            let words = sheet.words(section, key);
            Some(words.into_iter().map(|word| word.text.to_owned()).collect())
        }
        Shape::Number => one(sheet.number(section, key)?.to_string()),
        Shape::OneOf(among) => {
            let pairs: Vec<(&str, &str)> = among.iter().map(|word| (*word, *word)).collect();
            one(sheet.choice(section, key, &pairs)?.to_owned())
        }
        Shape::Path => {
            let word = sheet.word(section, key)?;
            if !word.text.starts_with('/') || word.text.contains('\0') {
                let message = format!("{:?} is not an absolute path", word.text);
                sheet.wrong(&word.span, message, None);
                return None;
            }
            one(word.text.to_owned())
        }
        Shape::Text => one(sheet.word(section, key)?.text.to_owned()),
    }
}
