//! Carries changes out: over several connections, many requests at a time, a phase after the
//! other; and what a restore needs to know before and does after. What the server refuses is
//! told by name, and the rest goes on.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures_util::stream::{StreamExt, iter};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::workload::directory::change::{Change, Edit};
use crate::workload::directory::ldap::{Connection, LdapProblem, Server};
use crate::workload::directory::object::{Object, folded, parent};
use crate::workload::directory::picture::Picture;
use crate::workload::directory::plan::{DISABLED, Live, Plan, Setting, differing, plan};
use crate::workload::directory::read::Reader;
use crate::workload::directory::request::carry;
use crate::workload::directory::wish::{PlanError, Wish, owners, wished};

/// Connections used at the same time.
const CONNECTIONS: usize = 4;
/// Requests under way on each.
const AT_ONCE: usize = 8;
/// With so many objects all that is deleted is looked through at once.
const MANY: usize = 64;

/// What becomes of the passwords of accounts that come back without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Passwords {
    /// None: the accounts are disabled.
    None,
    /// Random, known to nobody, to be changed at the next logon.
    Random,
}

/// Why a restore was not begun, or not ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarryError {
    /// What was wished for cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No chance to be had from the system.
    #[error("the system gives no random bytes for passwords")]
    Random,
    /// The server.
    #[error(transparent)]
    Server(#[from] LdapProblem),
}

/// What is written before anything is changed, to take it back.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Undo {
    pub kind: String,
    pub url: String,
    pub phases: Vec<Vec<Change>>,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// Requests the server carried out.
    pub changes: u64,
    /// What it refused, with why.
    pub refused: Vec<String>,
    /// Accounts that have a random password now.
    pub passwords: u64,
}

/// A live directory that is to be changed.
pub struct Carrier {
    pub reader: Reader,
    connections: Vec<Connection>,
}

impl Carrier {
    /// Connects.
    ///
    /// # Errors
    /// The server is not there, not believed, or refuses the account.
    pub async fn open(server: &Server) -> Result<Self, CarryError> {
        let first = Connection::open(server).await?;
        let reader = Reader::open(first.clone(), Vec::new()).await?;
        let mut connections = vec![first];
        while connections.len() < CONNECTIONS {
            connections.push(Connection::open(server).await?);
        }
        Ok(Self { reader, connections })
    }

    /// Decides what is to be done, looking at what is there.
    ///
    /// # Errors
    /// The wish cannot be carried out; the server does not answer.
    pub async fn plan(&self, point: &Picture, wish: &Wish) -> Result<Plan, CarryError> {
        let objects = wished(point, wish)?;
        let live = self.live(point, &objects, wish).await?;
        let root = &self.reader.root;
        let now = Setting { recycle_bin: root.recycle_bin, domain: &root.domain };
        Ok(plan(point, &live, &now, wish)?)
    }

    /// What is there of what is wished for, and of whatever links to it.
    async fn live(
        &self,
        point: &Picture,
        wished: &[&Object],
        wish: &Wish,
    ) -> Result<Live, LdapProblem> {
        let mut live = Live::default();
        let mut missing: BTreeSet<Uuid> = wished.iter().map(|object| object.guid).collect();
        if missing.len() > MANY {
            for base in wish.names.iter().filter(|_| wish.subtree) {
                self.know(&mut live, &mut missing, base, "(objectClass=*)").await?;
            }
            for context in &self.reader.root.contexts {
                let base = format!("CN=Deleted Objects,{context}");
                self.know(&mut live, &mut missing, &base, "(isDeleted=TRUE)").await?;
            }
        }
        missing.extend(owners(point, wished).iter().map(|object| object.guid));
        missing.retain(|guid| !live.objects.contains_key(guid));
        for object in self.reader.objects(missing).await? {
            live.insert(object);
        }
        // Names that are to be taken, and what is above them.
        let inside: HashSet<String> = wished.iter().map(|object| folded(&object.dn)).collect();
        let mut names: BTreeSet<&str> = BTreeSet::new();
        for object in wished {
            names.extend(parent(&object.dn).filter(|above| !inside.contains(&folded(above))));
        }
        if wished.len() <= MANY {
            names.extend(wished.iter().map(|object| object.dn.as_str()));
        } else {
            names.extend(wish.names.iter().map(String::as_str));
        }
        for name in names {
            match self.reader.object_with(name, &["objectGUID", "isDeleted"]).await {
                Err(problem) if problem.is_absent() => {}
                found => {
                    if let Some(object) = found? {
                        live.names.insert(folded(&object.dn), object.guid);
                        live.objects.entry(object.guid).or_insert(object);
                    }
                }
            }
        }
        Ok(live)
    }

    async fn know(
        &self,
        live: &mut Live,
        missing: &mut BTreeSet<Uuid>,
        base: &str,
        filter: &str,
    ) -> Result<(), LdapProblem> {
        for object in self.reader.below(base, filter).await? {
            if missing.remove(&object.guid) || !object.is_deleted() {
                live.insert(object);
            }
        }
        Ok(())
    }

    /// Does it: the phases, then what the directory made otherwise on the way, then passwords.
    ///
    /// # Errors
    /// The server is gone. What it refuses is in the outcome.
    pub async fn restore(
        &self,
        point: &Picture,
        wish: &Wish,
        plan: &Plan,
        passwords: Passwords,
    ) -> Result<Outcome, CarryError> {
        let mut outcome = Outcome::default();
        self.run(&plan.phases, &mut outcome).await?;
        let last = self.last(point, wish, plan, passwords).await?;
        outcome.passwords =
            last.iter().filter(|change| matches!(change, Change::Password { .. })).count() as u64;
        self.run(&[last], &mut outcome).await?;
        Ok(outcome)
    }

    /// Carries out phases, such as those of an undo file.
    ///
    /// # Errors
    /// The server is gone.
    pub async fn run(
        &self,
        phases: &[Vec<Change>],
        outcome: &mut Outcome,
    ) -> Result<(), CarryError> {
        for phase in phases {
            let under_way = CONNECTIONS * AT_ONCE;
            let tasks = phase.iter().enumerate().map(|(at, change)| {
                let connection = self.connections.get(at % CONNECTIONS);
                async move {
                    match connection {
                        Some(connection) => carry(connection, change).await,
                        None => Err(CarryError::Random),
                    }
                }
            });
            let mut done = iter(tasks).buffer_unordered(under_way);
            while let Some(done) = done.next().await {
                let (changes, refused) = done?;
                outcome.changes += changes;
                outcome.refused.extend(refused);
            }
        }
        Ok(())
    }

    /// What is left to do for objects that came back: attributes the directory set by itself,
    /// and passwords.
    async fn last(
        &self,
        point: &Picture,
        wish: &Wish,
        plan: &Plan,
        passwords: Passwords,
    ) -> Result<Vec<Change>, LdapProblem> {
        let back: HashMap<String, &Object> = plan
            .back
            .iter()
            .filter_map(|guid| point.object(guid))
            .map(|object| (folded(&object.dn), object))
            .collect();
        let mut now: HashMap<String, Object> = HashMap::new();
        if back.len() > MANY {
            for base in &wish.names {
                let found = self.reader.below(base, "(!(isDeleted=TRUE))").await?;
                now.extend(found.into_iter().map(|object| (folded(&object.dn), object)));
            }
        } else {
            for object in back.values() {
                let wanted = ["*", "nTSecurityDescriptor"];
                match self.reader.object_with(&object.dn, &wanted).await {
                    Err(problem) if problem.is_absent() => {}
                    found => now.extend(found?.map(|found| (folded(&found.dn), found))),
                }
            }
        }
        let mut last = Vec::new();
        for (name, was) in back {
            let Some(is) = now.get(&name) else { continue };
            let mut edits = differing(point, was, is, wish);
            let dn = was.dn.clone();
            let classes = was.values("objectClass");
            let user = classes.iter().any(|class| class == b"user");
            let kept = is
                .text("pwdLastSet")
                .is_some_and(|set| set != "0" && was.text("pwdLastSet") == Some(set));
            if !user || kept {
                if !edits.is_empty() {
                    last.push(Change::Modify { dn, edits });
                }
                continue;
            }
            let control: i64 =
                was.text("userAccountControl").and_then(|text| text.parse().ok()).unwrap_or(512);
            edits.retain(|edit| edit.attribute != "userAccountControl");
            let disabled = passwords == Passwords::None;
            let control = if disabled { control | DISABLED } else { control };
            edits.push(Edit::replace("userAccountControl", &[control.to_string().into_bytes()]));
            last.push(match disabled {
                true => Change::Modify { dn, edits },
                false => Change::Password { dn, edits },
            });
        }
        Ok(last)
    }
}
