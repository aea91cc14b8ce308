//! What a node can be ordered to do, by the version of its software that it tells when it comes.
//! A kind of work that it does not know is not sent: older software would lose its conversation
//! over it. What is owed by that stays owed, and says so.

use strongroom_protocol::control::Work;

/// A version of the software: major, minor, patch.
type Version = (u64, u64, u64);

/// Whatever speaks this wire knows it.
const EVER: Version = (0, 0, 0);
/// The first version with a number of its own.
const FIRST: Version = (0, 1, 0);

/// A kind of work, in a word for people, and the version since which it is known. A kind that is
/// appended to the wire has the version that it comes with.
type Kind = (&'static str, Version);

const AUX: Kind = ("write to media", EVER);
const DRILL: Kind = ("drill", FIRST);
const EXPIRE: Kind = ("let points go", FIRST);
const HEAL: Kind = ("give back what is hurt", FIRST);
const LOOK: Kind = ("look at copies", FIRST);
const PROTECT: Kind = ("protect", EVER);
const PROTECT_APP: Kind = ("protect applications", FIRST);
const PROTECT_BLOCKS: Kind = ("protect files of blocks", FIRST);
const PROVE: Kind = ("prove", EVER);
const RECOVER: Kind = ("recover", EVER);
const RELEASE: Kind = ("let points on media go", FIRST);
const REPLICATE: Kind = ("replicate", EVER);

/// What proxies are ordered to do.
const OF_PROXIES: [Kind; 8] = [REPLICATE, AUX, PROVE, EXPIRE, HEAL, LOOK, DRILL, RELEASE];

const fn kind_of(work: &Work) -> Kind {
    match work {
        Work::Aux { .. } => AUX,
        Work::Drill(_) => DRILL,
        Work::Expire { .. } => EXPIRE,
        Work::Heal { .. } => HEAL,
        Work::Look { .. } => LOOK,
        Work::Protect(_) => PROTECT,
        Work::ProtectApp(_) => PROTECT_APP,
        Work::ProtectBlocks { .. } => PROTECT_BLOCKS,
        Work::Prove { .. } => PROVE,
        Work::Recover(_) => RECOVER,
        Work::Release { .. } => RELEASE,
        Work::Replicate { .. } => REPLICATE,
    }
}

fn version(software: &str) -> Version {
    let plain = software.split(['-', '+']).next().unwrap_or_default();
    let mut parts = plain.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// Why a node of this software cannot be ordered to do this; none if it can.
pub(crate) fn lacking(software: &str, work: &Work) -> Option<String> {
    lacking_of(software, &[kind_of(work)])
}

/// Whether a proxy of this software can look at copies.
pub(crate) fn looks(software: &str) -> bool {
    lacking_of(software, &[LOOK]).is_none()
}

/// What a proxy of this software cannot be ordered to do, for people; none if everything.
pub(crate) fn lacking_of_proxy(software: &str) -> Option<String> {
    lacking_of(software, &OF_PROXIES)
}

fn lacking_of(software: &str, kinds: &[Kind]) -> Option<String> {
    let has = version(software);
    let lacked: Vec<Kind> = kinds.iter().copied().filter(|(_, since)| has < *since).collect();
    let (major, minor, patch) = lacked.iter().map(|(_, since)| *since).max()?;
    let what: Vec<&str> = lacked.iter().map(|(what, _)| *what).collect();
    let what = what.join(", ");
    Some(format!(
        "its software {software:?} cannot be ordered to {what}: update it to \
         {major}.{minor}.{patch} or later"
    ))
}

#[cfg(test)]
mod tests {
    use strongroom_node::uplink::SOFTWARE;
    use strongroom_protocol::PointId;

    use super::*;

    #[test]
    fn older_software_is_ordered_only_what_it_knows() {
        let point = PointId::from_bytes([1; 16]);
        let old = Work::Replicate { point, bits_per_second_max: None };
        let new = Work::Heal { packs: Vec::new(), points: vec![point] };
        for (software, may) in [
            ("0.0.9", false),
            ("0.1.0-rc.1", true),
            ("0.1.0", true),
            ("0.10.2+build", true),
            ("1", true),
            ("", false),
            (SOFTWARE, true),
        ] {
            assert_eq!(lacking(software, &new).is_none(), may, "{software}");
            assert_eq!(lacking(software, &old), None, "{software}");
        }
        let why = lacking("0.0.9", &new).unwrap();
        assert_eq!(lacking_of_proxy(SOFTWARE), None);
        let all = lacking_of_proxy("0.0.9").unwrap();
        assert!(all.contains("let points go, give back what is hurt, look"), "{all}");
        assert!(why.contains("give back") && why.contains("update it to 0.1.0"), "{why}");
    }
}
