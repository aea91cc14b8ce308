//! Which member of a cluster makes the point: a pure decision from what the members say, what the
//! policy prefers and which cluster the points are of. Promises one member or a reason for each
//! that it is not; refuses a member of another cluster, one that a promotion left behind, and to
//! choose between two that both call themselves the primary.

use std::fmt;

use strongroom_protocol::NodeName;
use strongroom_protocol::member::{MemberRole, MemberState};
use strongroom_protocol::opening::{Refusal, RefusalKind};

use crate::policy::{Prefer, Seconds};

/// What is known of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Its agent is not connected.
    Away,
    /// It was chosen in this round, and made no point.
    Failed(String),
    Is(MemberState),
    Refused(Refusal),
    /// Its agent did not answer in time.
    Silent,
}

/// What the policy says of the choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish {
    pub prefer: Prefer,
    /// How far a standby may be behind.
    pub lag_seconds_max: Option<u64>,
}

/// The member that makes the point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    pub member: NodeName,
    pub role: MemberRole,
    /// The identity of its cluster.
    pub cluster: String,
    /// Why it, and why not those before it, for people.
    pub why: String,
}

/// Why a member does not make the point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unfit {
    Away,
    /// It cannot tell how far it is behind, or is further than the policy lets it.
    Behind {
        lag_seconds_max: u64,
    },
    /// Another calls itself the primary too, of the same timeline.
    Disputed {
        by: NodeName,
        timeline: u64,
    },
    Failed(String),
    /// Of another cluster than the points, or than another member.
    Foreign {
        is: String,
        other: String,
        of: String,
    },
    /// A promotion that it knows nothing of came after its timeline.
    LeftBehind {
        timeline: u64,
        newest: u64,
    },
    Refused(Refusal),
    Role {
        is: MemberRole,
        prefer: Prefer,
    },
    Silent,
}

impl Unfit {
    /// Whether waiting alone changes nothing.
    pub const fn is_for_good(&self) -> bool {
        match self {
            Self::Foreign { .. } => true,
            Self::Refused(refusal) => {
                matches!(refusal.kind, RefusalKind::Invalid | RefusalKind::Forbidden)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("its agent is not connected"),
            Self::Behind { lag_seconds_max } => {
                write!(f, "it is more than {} behind, or cannot tell", Seconds(*lag_seconds_max))
            }
            Self::Disputed { by, timeline } => {
                write!(f, "it and {by} both call themselves the primary of timeline {timeline}")
            }
            Self::Failed(why) => write!(f, "it was tried: {why}"),
            Self::Foreign { is, other, of } => {
                write!(f, "it is of cluster {is}, and {of} of cluster {other}")
            }
            Self::LeftBehind { timeline, newest } => {
                write!(f, "it is on timeline {timeline}, and the cluster on {newest}")
            }
            Self::Refused(refusal) => refusal.text.fmt(f),
            Self::Role { is, prefer } => {
                write!(f, "it is the {}, and the policy says {}", is.as_str(), prefer.as_str())
            }
            Self::Silent => f.write_str("its agent did not answer"),
        }
    }
}

/// Nobody can make the point now, and why not, member by member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoMember(pub Vec<(NodeName, Unfit)>);

impl fmt::Display for NoMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no member can make the point: ")?;
        f.write_str(&listed(&self.0))
    }
}

fn listed(unfit: &[(NodeName, Unfit)]) -> String {
    let lines: Vec<String> = unfit.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    lines.join("; ")
}

/// Chooses among members in the order of the policy. `cluster` is that of the points there are.
///
/// # Errors
/// None of them fits, each for its reason.
pub fn choose(
    wish: Wish,
    cluster: Option<&str>,
    members: &[(NodeName, Seen)],
) -> Result<Choice, NoMember> {
    let mut fit: Vec<(u8, &NodeName, &MemberState)> = Vec::new();
    let mut unfit = Vec::new();
    for (name, seen) in members {
        match judge(wish, cluster, members, (name, seen)) {
            Ok(state) => fit.push((rank(wish.prefer, state.role), name, state)),
            Err(why) => unfit.push((name.clone(), why)),
        }
    }
    // The first of the best: a sort that keeps the order of the policy.
    fit.sort_by_key(|(rank, ..)| *rank);
    let Some((_, name, state)) = fit.first() else { return Err(NoMember(unfit)) };
    let lag = state.lag_ms.map_or_else(|| "unknown".to_owned(), |ms| format!("{} s", ms / 1000));
    let (role, timeline) = (state.role.as_str(), state.timeline);
    let mut why = format!("{role} on timeline {timeline}");
    if state.role == MemberRole::Standby {
        why.push_str(&format!(", behind: {lag}"));
    }
    why.push_str(&format!("; the policy says {}", wish.prefer.as_str()));
    if !unfit.is_empty() {
        why.push_str(&format!("; not {}", listed(&unfit)));
    }
    let (member, cluster) = ((*name).clone(), state.cluster.clone());
    Ok(Choice { member, role: state.role, cluster, why })
}

const fn rank(prefer: Prefer, role: MemberRole) -> u8 {
    match (prefer, role) {
        (Prefer::PreferStandby, MemberRole::Primary) => 1,
        _ => 0,
    }
}

fn states(members: &[(NodeName, Seen)]) -> impl Iterator<Item = (&NodeName, &MemberState)> {
    members.iter().filter_map(|(name, seen)| match seen {
        Seen::Is(state) => Some((name, state)),
        _ => None,
    })
}

fn judge<'m>(
    wish: Wish,
    cluster: Option<&str>,
    members: &'m [(NodeName, Seen)],
    (name, seen): (&NodeName, &'m Seen),
) -> Result<&'m MemberState, Unfit> {
    let state = match seen {
        Seen::Away => return Err(Unfit::Away),
        Seen::Failed(why) => return Err(Unfit::Failed(why.clone())),
        Seen::Refused(refusal) => return Err(Unfit::Refused(refusal.clone())),
        Seen::Silent => return Err(Unfit::Silent),
        Seen::Is(state) => state,
    };
    is_kin(cluster, members, state)?;
    let kin = || states(members).filter(|(_, other)| other.cluster == state.cluster);
    let newest = kin().map(|(_, other)| other.timeline).max().unwrap_or(state.timeline);
    if state.timeline < newest {
        return Err(Unfit::LeftBehind { timeline: state.timeline, newest });
    }
    // Two primaries of one timeline wrote two histories, and a standby follows one of them.
    let mut primaries =
        kin().filter(|(_, other)| other.role == MemberRole::Primary && other.timeline == newest);
    if let (Some((first, _)), Some((second, _))) = (primaries.next(), primaries.next()) {
        let by = if first == name { second } else { first };
        return Err(Unfit::Disputed { by: by.clone(), timeline: newest });
    }
    let (is, prefer) = (state.role, wish.prefer);
    match (prefer, is) {
        (Prefer::Primary, MemberRole::Standby) | (Prefer::StandbyOnly, MemberRole::Primary) => {
            return Err(Unfit::Role { is, prefer });
        }
        _ => {}
    }
    let near = |most: u64| state.lag_ms.is_some_and(|ms| ms <= most.saturating_mul(1000));
    match wish.lag_seconds_max.filter(|most| is == MemberRole::Standby && !near(*most)) {
        Some(lag_seconds_max) => Err(Unfit::Behind { lag_seconds_max }),
        None => Ok(state),
    }
}

/// Of the cluster of the points; or, where there is none yet, of one with all the others.
fn is_kin(
    cluster: Option<&str>,
    members: &[(NodeName, Seen)],
    state: &MemberState,
) -> Result<(), Unfit> {
    let foreign = |other: &str, of: String| {
        Err(Unfit::Foreign { is: state.cluster.clone(), other: other.to_owned(), of })
    };
    match cluster {
        Some(known) if known != state.cluster => foreign(known, "the points are".to_owned()),
        Some(_) => Ok(()),
        None => match states(members).find(|(_, other)| other.cluster != state.cluster) {
            Some((name, other)) => foreign(&other.cluster, format!("{name} is")),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(role: MemberRole, timeline: u64, lag_seconds: u64) -> Seen {
        of("7", role, timeline, Some(lag_seconds * 1000))
    }

    fn of(cluster: &str, role: MemberRole, timeline: u64, lag_ms: Option<u64>) -> Seen {
        let (cluster, version) = (cluster.to_owned(), "15.14".to_owned());
        Seen::Is(MemberState { cluster, role, timeline, lag_ms, version })
    }

    fn chosen(
        (prefer, lag_seconds_max): (Prefer, Option<u64>),
        cluster: Option<&str>,
        seen: &[Seen],
    ) -> Result<String, String> {
        let members: Vec<(NodeName, Seen)> = seen
            .iter()
            .enumerate()
            .map(|(at, seen)| (format!("db{}", at + 1).parse().unwrap(), seen.clone()))
            .collect();
        let choice = choose(Wish { prefer, lag_seconds_max }, cluster, &members);
        choice.map(|choice| choice.member.to_string()).map_err(|no| no.to_string())
    }

    use MemberRole::{Primary, Standby};
    use Prefer::{Any, PreferStandby, StandbyOnly};

    #[test]
    fn each_preference_finds_its_member() {
        let both = [is(Primary, 1, 0), is(Standby, 1, 3)];
        let late = [is(Primary, 1, 0), is(Standby, 1, 90)];
        let mute = [is(Primary, 1, 0), of("7", Standby, 1, None)];
        let gone = [is(Primary, 1, 0), Seen::Silent];
        let tried = [Seen::Failed("no space".to_owned()), is(Standby, 1, 0)];
        let promoted = [is(Primary, 1, 0), is(Primary, 2, 0)];
        let three = [is(Primary, 3, 0), is(Standby, 2, 0), is(Standby, 3, 0)];
        let minute = Some(60);
        for (prefer, most, seen, member) in [
            (Any, None, &both[..], "db1"),
            (Prefer::Primary, None, &both, "db1"),
            (PreferStandby, None, &both, "db2"),
            (PreferStandby, minute, &both, "db2"),
            (StandbyOnly, minute, &both, "db2"),
            (PreferStandby, minute, &late, "db1"),
            (PreferStandby, None, &late, "db2"),
            (PreferStandby, minute, &mute, "db1"),
            (PreferStandby, None, &gone, "db1"),
            (Any, None, &tried, "db2"),
            // What was the primary knows nothing of the promotion.
            (Any, None, &promoted, "db2"),
            (Prefer::Primary, None, &promoted, "db2"),
            (PreferStandby, None, &three, "db3"),
            (Any, None, &three, "db1"),
        ] {
            let found = chosen((prefer, most), None, seen);
            assert_eq!(found.as_deref(), Ok(member), "{prefer:?} {most:?} {seen:?}");
        }
    }

    #[test]
    fn whoever_is_not_chosen_is_told_why() {
        let refusal = Refusal::new(RefusalKind::Invalid, "no password");
        let other = of("8", Primary, 1, Some(0));
        let minute = Some(60);
        for (prefer, most, cluster, seen, said) in [
            (Prefer::Primary, None, None, vec![is(Standby, 1, 0)], "the policy says primary"),
            (StandbyOnly, minute, None, vec![is(Standby, 1, 61)], "db1: it is more than 1m behind"),
            (StandbyOnly, None, None, vec![is(Primary, 1, 0)], "it is the primary"),
            (Any, None, None, vec![Seen::Away, Seen::Silent], "not connected; db2: its agent did"),
            (Any, None, None, vec![Seen::Refused(refusal)], "db1: no password"),
            (
                Any,
                None,
                None,
                vec![is(Primary, 2, 0), is(Primary, 2, 0), is(Standby, 2, 0)],
                "db3: it and db1 both call themselves the primary of timeline 2",
            ),
            (Any, None, Some("7"), vec![other.clone()], "of cluster 8, and the points are of"),
            (Any, None, None, vec![is(Primary, 1, 0), other.clone()], "and db2 is of cluster 8"),
        ] {
            let told = chosen((prefer, most), cluster, &seen).unwrap_err();
            assert!(told.contains(said), "{told}");
        }
        // Where the points say which cluster it is, one that is not does not matter.
        let found = chosen((Any, None), Some("7"), &[other, is(Standby, 1, 0)]);
        assert_eq!(found.as_deref(), Ok("db2"));
    }
}
