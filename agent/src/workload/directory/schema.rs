//! What the schema says of each attribute: whether it is the directory's own, a link, or may be
//! written back. Read from the live directory or from a point alike.

use std::collections::HashMap;

use crate::workload::directory::object::{Object, Values};

/// Belongs to one domain controller; never sent to another.
const NOT_REPLICATED: i64 = 0x1;
/// Made when asked for.
const CONSTRUCTED: i64 = 0x4;
/// What a reader needs of an attribute's definition.
pub(super) const DEFINITION: [&str; 6] =
    ["lDAPDisplayName", "attributeID", "linkID", "systemFlags", "systemOnly", "msDS-IntId"];
/// Attributes of one domain controller that are kept all the same: by them changes are seen.
const KEPT: [&str; 3] = ["replPropertyMetaData", "uSNChanged", "msDS-ReplValueMetaData"];
/// What the directory keeps by itself, whatever its schema says of it (agents.md 5.2).
const OWN: [&str; 35] = [
    "badPasswordTime",
    "badPwdCount",
    "cn",
    "creationTime",
    "dBCSPwd",
    "distinguishedName",
    "dSCorePropagationData",
    "instanceType",
    "isCriticalSystemObject",
    "isDeleted",
    "isRecycled",
    "lastKnownParent",
    "lastLogoff",
    "lastLogon",
    "lastLogonTimestamp",
    "lmPwdHistory",
    "lockoutTime",
    "logonCount",
    "msDS-LastKnownRDN",
    "msDS-ReplValueMetaData",
    "name",
    "ntPwdHistory",
    "objectClass",
    "objectGUID",
    "objectSid",
    "pwdLastSet",
    "replPropertyMetaData",
    "sAMAccountType",
    "supplementalCredentials",
    "unicodePwd",
    "uSNChanged",
    "uSNCreated",
    "uSNLastObjRem",
    "whenChanged",
    "whenCreated",
];

/// What is known of an attribute.
#[derive(Clone, Debug)]
struct Rule {
    name: String,
    flags: i64,
    system_only: bool,
    link: Option<u32>,
}

/// The attributes of a directory.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    rules: HashMap<String, Rule>,
    by_number: HashMap<u32, String>,
}

impl Schema {
    /// From the objects that define attributes.
    pub fn of<'o>(objects: impl Iterator<Item = &'o Object>) -> Self {
        let mut schema = Self::default();
        for object in objects {
            schema.add(|name| object.values(name).to_vec());
        }
        schema
    }

    pub(super) fn add(&mut self, values: impl Fn(&str) -> Values) {
        let text = |name: &str| -> Option<String> {
            String::from_utf8(values(name).into_iter().next()?).ok()
        };
        let number = |name: &str| -> Option<i64> { text(name)?.parse().ok() };
        let Some(name) = text("lDAPDisplayName") else { return };
        let known = text("attributeID").and_then(|oid| attribute_number(&oid));
        #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a pattern")]
        let known = number("msDS-IntId").map(|id| id as u32).or(known);
        if let Some(known) = known {
            self.by_number.insert(known, name.clone());
        }
        let rule = Rule {
            flags: number("systemFlags").unwrap_or_default(),
            system_only: text("systemOnly").as_deref() == Some("TRUE"),
            link: number("linkID").and_then(|id| u32::try_from(id).ok()).filter(|id| *id > 0),
            name: name.clone(),
        };
        self.rules.insert(name.to_lowercase(), rule);
    }

    /// Whether anything is known.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    fn rule(&self, attribute: &str) -> Option<&Rule> {
        self.rules.get(&attribute.to_lowercase())
    }

    /// The name as the schema writes it.
    pub fn name<'s>(&'s self, attribute: &'s str) -> &'s str {
        self.rule(attribute).map_or(attribute, |rule| &rule.name)
    }

    /// The attribute of a number in replication metadata.
    pub(super) fn numbered(&self, number: u32) -> Option<&str> {
        self.by_number.get(&number).map(String::as_str)
    }

    /// Whether a point keeps it: what the other end of a link, one domain controller or the
    /// moment makes is not kept.
    pub(super) fn is_kept(&self, attribute: &str) -> bool {
        if KEPT.contains(&attribute) {
            return true;
        }
        self.rule(attribute).is_none_or(|rule| {
            rule.flags & (NOT_REPLICATED | CONSTRUCTED) == 0 && !is_back(rule.link)
        })
    }

    /// Whether it points forward to other objects, and they back.
    pub fn is_link(&self, attribute: &str) -> bool {
        self.rule(attribute).and_then(|rule| rule.link).is_some_and(|link| link % 2 == 0)
    }

    /// Whether a restore may write it.
    pub fn is_writable(&self, attribute: &str) -> bool {
        !OWN.contains(&attribute)
            && self.is_kept(attribute)
            && self.rule(attribute).is_none_or(|rule| !rule.system_only)
    }
}

fn is_back(link: Option<u32>) -> bool {
    link.is_some_and(|link| link % 2 == 1)
}

/// The number of an attribute by its OID, after the table every domain begins with.
fn attribute_number(oid: &str) -> Option<u32> {
    const PREFIXES: [(u32, &str); 16] = [
        (0, "2.5.4"),
        (2, "1.2.840.113556.1.2"),
        (4, "2.16.840.1.101.2.2.1"),
        (6, "2.16.840.1.101.2.1.5"),
        (7, "2.16.840.1.101.2.1.4"),
        (8, "2.5.5"),
        (9, "1.2.840.113556.1.4"),
        (19, "0.9.2342.19200300.100"),
        (20, "2.16.840.1.113730.3"),
        (21, "0.9.2342.19200300.100.1"),
        (22, "2.16.840.1.113730.3.1"),
        (24, "2.5.21"),
        (25, "2.5.18"),
        (27, "1.3.6.1.4.1.1466.101.119"),
        (29, "1.3.6.1.4.1.250.1"),
        (30, "1.2.840.113549.1.9"),
    ];
    let (prefix, last) = oid.rsplit_once('.')?;
    let last: u32 = last.parse().ok()?;
    let (number, _) = PREFIXES.iter().find(|(_, known)| *known == prefix)?;
    (last < 0x4000).then_some((number << 16) | last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_specification() {
        assert_eq!(attribute_number("2.5.4.13"), Some(13));
        assert_eq!(attribute_number("1.2.840.113556.1.4.8"), Some(0x0009_0008));
        assert_eq!(attribute_number("1.2.840.113556.1.2.102"), Some(0x0002_0066));
        assert_eq!(attribute_number("1.2.3.4"), None);
    }
}
