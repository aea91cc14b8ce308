//! Reads objects of a domain controller whole: every attribute a point keeps, binary-safe, long
//! attributes followed to their end, deleted objects too; and says which objects changed since a
//! mark, by DirSync where the account may, by update sequence numbers where not.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use ldap3::Scope;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::workload::directory::ber;
use crate::workload::directory::ldap::{Ask, Connection, Found, LdapProblem};
use crate::workload::directory::object::{Attributes, Object, Values, is_within};
use crate::workload::directory::schema::{DEFINITION, Schema};

/// Objects asked for at the same time on one connection.
const AT_ONCE: usize = 32;
/// What a point keeps of an object.
const ATTRIBUTES: [&str; 4] =
    ["*", "nTSecurityDescriptor", "replPropertyMetaData", "msDS-ReplValueMetaData"];
pub(super) const ANYTHING: &str = "(objectClass=*)";

/// Where to read on from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mark {
    /// What DirSync gave.
    Cookie(Vec<u8>),
    /// The highest update sequence number that was seen.
    Usn(u64),
}

impl Mark {
    /// A word for it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cookie(_) => "dirsync",
            Self::Usn(_) => "usn",
        }
    }
}

/// What a domain controller says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Root {
    pub dns_name: String,
    pub domain: String,
    pub schema: String,
    pub configuration: String,
    pub contexts: Vec<String>,
    /// The identity of its database: another one counts otherwise.
    pub invocation: String,
    pub highest_usn: u64,
    pub domain_level: String,
    pub forest_level: String,
    pub controller_level: String,
    pub recycle_bin: bool,
}

/// Reads one domain controller.
#[derive(Clone)]
pub struct Reader {
    pub(super) connection: Connection,
    pub schema: Schema,
    pub root: Root,
    /// Names whose objects, and all below them, are left out.
    exclude: Vec<String>,
}

/// What changed since a mark.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) guids: BTreeSet<Uuid>,
    pub(super) next: Mark,
}

impl Reader {
    /// Looks at the server and reads its schema.
    ///
    /// # Errors
    /// It does not answer as a domain controller does.
    pub async fn open(connection: Connection, exclude: Vec<String>) -> Result<Self, LdapProblem> {
        let root = root(&connection).await?;
        let ask = Ask {
            base: &root.schema,
            scope: Scope::OneLevel,
            filter: "(objectClass=attributeSchema)",
            attributes: &DEFINITION,
            controls: vec![],
        };
        let mut schema = Schema::default();
        for found in connection.all(&ask).await? {
            schema.add(|name| found.values(name).to_vec());
        }
        Ok(Self { connection, schema, root, exclude })
    }

    /// The update sequence number the server is at now.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn highest_usn(&self) -> Result<u64, LdapProblem> {
        usn(&self.connection.root().await?)
    }

    /// A page of everything in a naming context, deleted objects too.
    pub(super) async fn page(
        &self,
        context: &str,
        cookie: &[u8],
    ) -> Result<(Vec<Object>, Vec<u8>), LdapProblem> {
        let ask = everything(context, ANYTHING, &ATTRIBUTES);
        let (found, next) = self.connection.page(&ask, cookie).await?;
        let mut objects = Vec::with_capacity(found.len());
        for found in found {
            objects.extend(self.object(found).await?);
        }
        Ok((objects, next))
    }

    /// Everything at or below a name, whole; nothing where the name is not there.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn below(&self, base: &str, filter: &str) -> Result<Vec<Object>, LdapProblem> {
        let found = match self.connection.all(&everything(base, filter, &ATTRIBUTES)).await {
            Err(problem) if problem.is_absent() => return Ok(Vec::new()),
            found => found?,
        };
        let mut objects = Vec::with_capacity(found.len());
        for found in found {
            objects.extend(self.object(found).await?);
        }
        Ok(objects)
    }

    /// These objects as they are now; those that are gone for good are left out.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn objects(
        &self,
        guids: impl IntoIterator<Item = Uuid>,
    ) -> Result<Vec<Object>, LdapProblem> {
        let one = async |guid: Uuid| {
            let base = format!("<GUID={guid}>");
            let mut ask = everything(&base, ANYTHING, &ATTRIBUTES);
            ask.scope = Scope::Base;
            match self.connection.search(&ask).await {
                Err(problem) if problem.is_absent() => Ok(None),
                Err(problem) => Err(problem),
                Ok((found, _)) => match found.into_iter().next() {
                    Some(found) => self.object(found).await,
                    None => Ok(None),
                },
            }
        };
        let guids: Vec<Uuid> = guids.into_iter().collect();
        let asked = iter(guids).map(one).buffer_unordered(AT_ONCE);
        asked.try_filter_map(async |found| Ok(found)).try_collect().await
    }

    /// An object whose attributes begin at `attributes` only, for tests of long attributes.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn object_with(
        &self,
        dn: &str,
        attributes: &[&str],
    ) -> Result<Option<Object>, LdapProblem> {
        let mut ask = everything(dn, ANYTHING, attributes);
        ask.scope = Scope::Base;
        let (found, _) = self.connection.search(&ask).await?;
        match found.into_iter().next() {
            Some(found) => self.object(found).await,
            None => Ok(None),
        }
    }

    /// An object as a point keeps it; none where it is left out or has no GUID.
    async fn object(&self, found: Found) -> Result<Option<Object>, LdapProblem> {
        let guid = found.values("objectGUID").first().and_then(|raw| Uuid::from_slice_le(raw).ok());
        let Some(guid) = guid else { return Ok(None) };
        if self.exclude.iter().any(|base| is_within(&found.dn, base)) {
            return Ok(None);
        }
        let mut kept: BTreeMap<String, Values> = BTreeMap::new();
        for (name, mut values) in found.attributes {
            let (name, range) = match name.split_once(";range=") {
                Some((name, range)) => (name.to_owned(), Some(range.to_owned())),
                None => (name, None),
            };
            if !self.schema.is_kept(&name) {
                continue;
            }
            if let Some(range) = range {
                self.rest(&guid, &name, &range, &mut values).await?;
            }
            kept.entry(name).or_default().extend(values);
        }
        kept.retain(|_, values| !values.is_empty());
        for (name, values) in &mut kept {
            // The order of classes says something; servers promise none for the rest.
            if name != "objectClass" {
                values.sort();
                values.dedup();
            }
        }
        Ok(Some(Object { guid, dn: found.dn, attributes: Attributes(kept) }))
    }

    /// Follows an attribute that came in part to its end.
    async fn rest(
        &self,
        guid: &Uuid,
        name: &str,
        range: &str,
        values: &mut Values,
    ) -> Result<(), LdapProblem> {
        let base = format!("<GUID={guid}>");
        let mut range = range.to_owned();
        while let Some(end) = range.rsplit_once('-').and_then(|(_, end)| end.parse::<u64>().ok()) {
            let wanted = format!("{name};range={}-*", end + 1);
            let mut ask = everything(&base, ANYTHING, &[]);
            let attributes = [wanted.as_str()];
            (ask.scope, ask.attributes) = (Scope::Base, &attributes);
            let (found, _) = self.connection.search(&ask).await?;
            let prefix = format!("{};range=", name.to_lowercase());
            let Some(found) = found.into_iter().next() else { return Ok(()) };
            let mut next = None;
            for (known, more) in found.attributes {
                if let Some(known) = known.to_lowercase().strip_prefix(&prefix) {
                    next = Some(known.to_owned());
                    values.extend(more);
                } else if known.eq_ignore_ascii_case(name) {
                    values.extend(more);
                }
            }
            let Some(next) = next else { return Ok(()) };
            range = next;
        }
        Ok(())
    }

    /// Where to read on from, before anything is read. Says why it is not DirSync.
    pub(super) async fn first_mark(
        &self,
        context: &str,
    ) -> Result<(Mark, Option<String>), LdapProblem> {
        match self.dirsync(context, &[], &["objectGUID"]).await {
            Ok(changes) => Ok((changes.next, None)),
            Err(problem) if problem.code().is_some() => {
                let why = format!(
                    "{context}: DirSync is refused ({problem}); changes are found by uSNChanged"
                );
                Ok((Mark::Usn(self.highest_usn().await?), Some(why)))
            }
            Err(problem) => Err(problem),
        }
    }

    /// What changed since a mark; none where the server does not know the mark any more.
    pub(super) async fn changes(
        &self,
        context: &str,
        mark: &Mark,
    ) -> Result<Option<Changes>, LdapProblem> {
        let changes = match mark {
            Mark::Cookie(cookie) => self.dirsync(context, cookie, &ATTRIBUTES[..2]).await,
            Mark::Usn(usn) => self.since(context, *usn).await,
        };
        match changes {
            Ok(changes) => Ok(Some(changes)),
            Err(problem) if problem.code().is_some() => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    async fn dirsync(
        &self,
        context: &str,
        cookie: &[u8],
        attributes: &[&str],
    ) -> Result<Changes, LdapProblem> {
        let mut next = cookie.to_vec();
        let mut guids = BTreeSet::new();
        loop {
            let mut ask = everything(context, ANYTHING, attributes);
            ask.controls = vec![ber::dirsync(&next)];
            let (found, controls) = self.connection.search(&ask).await?;
            guids.extend(found.iter().filter_map(guid_of));
            let unreadable = || LdapProblem::Unreadable {
                url: self.connection.server().url.clone(),
                what: "DirSync".to_owned(),
            };
            let (more, cookie) = ber::dirsync_answer(&controls).ok_or_else(unreadable)?;
            next = cookie;
            if !more {
                return Ok(Changes { guids, next: Mark::Cookie(next) });
            }
        }
    }

    async fn since(&self, context: &str, usn: u64) -> Result<Changes, LdapProblem> {
        let next = Mark::Usn(self.highest_usn().await?);
        let filter = format!("(uSNChanged>={})", usn + 1);
        let found = self.connection.all(&everything(context, &filter, &["objectGUID"])).await?;
        Ok(Changes { guids: found.iter().filter_map(guid_of).collect(), next })
    }
}

fn guid_of(found: &Found) -> Option<Uuid> {
    Uuid::from_slice_le(found.values("objectGUID").first()?).ok()
}

fn everything<'a>(base: &'a str, filter: &'a str, attributes: &'a [&'a str]) -> Ask<'a> {
    let controls = vec![ber::show_deleted(), ber::show_recycled(), ber::security_descriptor()];
    Ask { base, scope: Scope::Subtree, filter, attributes, controls }
}

fn usn(root: &Found) -> Result<u64, LdapProblem> {
    let told = root.text("highestCommittedUSN").and_then(|text| text.parse().ok());
    told.ok_or_else(|| LdapProblem::Refused {
        what: "look for highestCommittedUSN".to_owned(),
        code: 0,
        text: "nothing of it: this is no domain controller of Active Directory".to_owned(),
    })
}

async fn root(connection: &Connection) -> Result<Root, LdapProblem> {
    let found = connection.root().await?;
    let text = |name: &str| found.text(name).unwrap_or_default();
    let contexts = found.values("namingContexts").iter();
    let contexts = contexts.map(|value| String::from_utf8_lossy(value).into_owned()).collect();
    let highest_usn = usn(&found)?;
    let service = text("dsServiceName");
    let mut ask = everything(&service, ANYTHING, &["invocationId"]);
    ask.scope = Scope::Base;
    let settings = connection.search(&ask).await?.0.into_iter().next();
    let invocation = settings
        .and_then(|settings| Uuid::from_slice_le(settings.values("invocationId").first()?).ok());
    let configuration = text("configurationNamingContext");
    let features = format!("CN=Partitions,{configuration}");
    let mut ask = everything(&features, ANYTHING, &["msDS-EnabledFeature"]);
    ask.scope = Scope::Base;
    let features = connection.search(&ask).await.map(|(found, _)| found).unwrap_or_default();
    let features = features.first().map(|found| found.values("msDS-EnabledFeature").to_vec());
    let recycle_bin = features
        .unwrap_or_default()
        .iter()
        .any(|feature| String::from_utf8_lossy(feature).starts_with("CN=Recycle Bin Feature"));
    Ok(Root {
        dns_name: text("dnsHostName"),
        domain: text("defaultNamingContext"),
        schema: text("schemaNamingContext"),
        configuration,
        contexts,
        invocation: invocation.map(|id| id.to_string()).unwrap_or_default(),
        highest_usn,
        domain_level: text("domainFunctionality"),
        forest_level: text("forestFunctionality"),
        controller_level: text("domainControllerFunctionality"),
        recycle_bin,
    })
}
