//! Changes of a directory as values: what a restore does, what an undo file holds, what a dry
//! run prints as LDIF (RFC 2849).

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::workload::directory::object::{Attributes, Values, parent};

/// One thing done to one object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    /// It is made anew: with a new identity.
    Add { dn: String, attributes: Attributes },
    /// It is deleted.
    Delete { dn: String },
    /// Values of it are changed.
    Modify { dn: String, edits: Vec<Edit> },
    /// A random password that nobody knows; it must be changed at the next logon.
    Password { dn: String, edits: Vec<Edit> },
    /// It is brought back out of its tombstone, with its identity.
    Reanimate { tombstone: String, guid: Uuid, dn: String, edits: Vec<Edit> },
    /// It gets another name.
    Rename { dn: String, to: String },
}

/// What is done to an attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Act {
    Add,
    Remove,
    Replace,
}

/// A change of an attribute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Edit {
    pub attribute: String,
    pub act: Act,
    #[serde(with = "crate::workload::directory::object::raw")]
    pub values: Values,
}

impl Edit {
    /// These values and no others.
    pub fn replace(attribute: &str, values: &[Vec<u8>]) -> Self {
        Self { attribute: attribute.to_owned(), act: Act::Replace, values: values.to_vec() }
    }
}

impl Change {
    /// The object it is about, by the name it has afterwards.
    pub fn dn(&self) -> &str {
        match self {
            Self::Add { dn, .. }
            | Self::Delete { dn }
            | Self::Modify { dn, .. }
            | Self::Password { dn, .. }
            | Self::Reanimate { dn, .. } => dn,
            Self::Rename { to, .. } => to,
        }
    }

    /// As a record of LDIF, with an empty line after it.
    pub fn ldif(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Add { dn, attributes } => {
                line(&mut out, "dn", dn.as_bytes());
                out.push_str("changetype: add\n");
                for (name, values) in &attributes.0 {
                    values.iter().for_each(|value| line(&mut out, name, value));
                }
            }
            Self::Delete { dn } => {
                line(&mut out, "dn", dn.as_bytes());
                out.push_str("changetype: delete\n");
            }
            Self::Modify { dn, edits } => {
                line(&mut out, "dn", dn.as_bytes());
                out.push_str("changetype: modify\n");
                edits.iter().for_each(|edit| edit.ldif(&mut out));
            }
            Self::Password { dn, edits } => {
                out.push_str("# a random password goes with this, to be changed at next logon\n");
                line(&mut out, "dn", dn.as_bytes());
                out.push_str("changetype: modify\n");
                edits.iter().for_each(|edit| edit.ldif(&mut out));
            }
            Self::Reanimate { tombstone, dn, edits, .. } => {
                out.push_str("# with the control 1.2.840.113556.1.4.417\n");
                line(&mut out, "dn", tombstone.as_bytes());
                out.push_str("changetype: modify\ndelete: isDeleted\n-\n");
                Edit::replace("distinguishedName", &[dn.clone().into_bytes()]).ldif(&mut out);
                edits.iter().for_each(|edit| edit.ldif(&mut out));
            }
            Self::Rename { dn, to } => {
                let (rdn, above) = split(to);
                line(&mut out, "dn", dn.as_bytes());
                out.push_str("changetype: moddn\n");
                line(&mut out, "newrdn", rdn.as_bytes());
                out.push_str("deleteoldrdn: 1\n");
                line(&mut out, "newsuperior", above.as_bytes());
            }
        }
        out.push('\n');
        out
    }
}

impl Edit {
    fn ldif(&self, out: &mut String) {
        let act = match self.act {
            Act::Add => "add",
            Act::Remove => "delete",
            Act::Replace => "replace",
        };
        out.push_str(&format!("{act}: {}\n", self.attribute));
        self.values.iter().for_each(|value| line(out, &self.attribute, value));
        out.push_str("-\n");
    }
}

/// A name as its first part and the rest.
pub(super) fn split(dn: &str) -> (&str, &str) {
    let above = parent(dn).unwrap_or_default();
    let rdn = dn.len().saturating_sub(above.len() + 1);
    (dn.get(..rdn).unwrap_or(dn), above)
}

/// A line of an attribute; in base64 where LDIF wants it.
fn line(out: &mut String, name: &str, value: &[u8]) {
    let first = value.first().copied().unwrap_or(b'x');
    let plain = value.iter().all(|byte| matches!(byte, 0x20..0x7f))
        && !matches!(first, b' ' | b':' | b'<')
        && value.last() != Some(&b' ');
    match std::str::from_utf8(value) {
        Ok(text) if plain => out.push_str(&format!("{name}: {text}\n")),
        _ => out.push_str(&format!("{name}:: {}\n", BASE64.encode(value))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldif_is_written_as_the_standard_says() {
        let edits = vec![
            Edit::replace("description", &[b"two words".to_vec()]),
            Edit::replace("sn", &[" x".into(), "\u{e9}".into()]),
            Edit { attribute: "member".into(), act: Act::Remove, values: vec![b"CN=a".to_vec()] },
        ];
        let change = Change::Modify { dn: "CN=\u{e9},DC=x".into(), edits };
        let expected = "dn:: Q049w6ksREM9eA==\nchangetype: modify\nreplace: description\n\
            description: two words\n-\nreplace: sn\nsn:: IHg=\nsn:: w6k=\n-\ndelete: member\n\
            member: CN=a\n-\n\n";
        assert_eq!(change.ldif(), expected);
        let to = "CN=a\\,b,OU=c,DC=x".to_owned();
        let rename = Change::Rename { dn: "CN=q,DC=x".into(), to };
        assert!(
            rename.ldif().contains("newrdn: CN=a\\,b\ndeleteoldrdn: 1\nnewsuperior: OU=c,DC=x")
        );
    }

    #[test]
    fn a_change_comes_back_from_its_file() {
        let values = vec![vec![0xff, 0], b"text".to_vec()];
        let change = Change::Modify { dn: "CN=a".into(), edits: vec![Edit::replace("x", &values)] };
        let text = serde_json::to_string(&change).unwrap();
        assert_eq!(serde_json::from_str::<Change>(&text).unwrap(), change);
    }
}
