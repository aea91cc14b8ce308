//! Who leads: which site's coordinator takes points and gives orders, in which term. A term is a
//! number of the organisation's that only grows; whoever saw a higher one obeys no lower one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{CopyName, Identity, PointId, SiteName, WorkloadName};
use crate::opening::Refusal;
use crate::time::Timestamp;

/// Counts who led: 1 from the beginning, one more with every takeover and every giving back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Term(pub u64);

impl Term {
    /// The one an organisation begins with.
    pub const FIRST: Self = Self(1);

    /// The one after.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A term and who leads in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lead {
    pub term: Term,
    pub site: SiteName,
    /// None: since the beginning.
    pub since: Option<Timestamp>,
    /// The two persons who ordered it; nobody in the first term.
    pub by: Vec<Identity>,
    pub why: String,
}

impl Lead {
    /// How it is before anybody ordered anything.
    pub const fn first(site: SiteName) -> Self {
        Self { term: Term::FIRST, site, since: None, by: Vec::new(), why: String::new() }
    }
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "site {} leads in term {}", self.site, self.term)?;
        if let Some(since) = self.since {
            write!(f, " since {since}")?;
        }
        for (number, by) in self.by.iter().enumerate() {
            f.write_str(if number == 0 { ", ordered by " } else { " and " })?;
            write!(f, "{by}")?;
        }
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        Ok(())
    }
}

/// What two persons may order. The order is the wire: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeadOrder {
    /// The site whose proxy is asked leads from now on.
    TakeOver,
    /// The site that led before leads again, as soon as it lacks nothing.
    GiveBack,
}

impl LeadOrder {
    /// The word in commands, logs and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TakeOver => "takeover",
            Self::GiveBack => "giveback",
        }
    }
}

/// What a coordinator that is brought up says when it has asked for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseeded {
    /// Points that it holds now of those that were offered.
    pub held: u64,
    /// Points that it let go itself, by its policy, before: they are not taken in again.
    pub let_go: u64,
    /// Points that only it holds.
    pub only_there: u64,
    /// Points that it lacks still.
    pub lacking: u64,
    /// Why, each in a sentence; not all of them where they are many.
    pub why: Vec<String>,
}

impl fmt::Display for Reseeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, let_go, only_there, lacking, why } = self;
        write!(
            f,
            "of the points of the site that leads {held} are at the other and {lacking} are \
             lacking there; {let_go} were let go there before, and {only_there} are only there"
        )?;
        why.first().map_or(Ok(()), |first| write!(f, "; {first}"))
    }
}

/// What a person marked at a site while it led in another's place. The order is the wire: append
/// only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mark {
    /// Nothing of these expires until the hold is released; told in parts where it is long.
    Hold {
        name: String,
        by: String,
        why: String,
        placed: Timestamp,
        points: Vec<PointId>,
        workloads: Vec<WorkloadName>,
    },
    /// A point is kept, in one copy or in all; until then, if it is said.
    Pin {
        point: PointId,
        copy: Option<CopyName>,
        by: String,
        why: String,
        until: Option<Timestamp>,
    },
    /// An event began, or ended then.
    Event { name: String, ended: Option<Timestamp> },
}

/// Who leads, as a node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadReport {
    pub lead: Lead,
    /// `leads`, `follows`, `hands over`, `begins to lead`.
    pub standing: String,
    /// An order that waits for a second person.
    pub proposed: Option<Proposal>,
    /// What else is to be known of it, each in a sentence.
    pub facts: Vec<String>,
}

/// An order that one person gave and another has to confirm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    pub id: String,
    pub order: LeadOrder,
    pub by: Identity,
    pub why: String,
    pub expires: Timestamp,
    /// What speaks against it, each in a sentence.
    pub doubts: Vec<String>,
}

/// Why a coordinator that does not lead does not do something.
pub fn taken_over(lead: &Lead, what: &str) -> Refusal {
    let text = format!(
        "{what}: {lead}; ask site {}, and `strongroom giveback` there gives the lead back",
        lead.site
    );
    Refusal::new(crate::opening::RefusalKind::Stale, text)
}
