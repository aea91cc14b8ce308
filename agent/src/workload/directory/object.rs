//! An object of a directory as it stands in a point: its GUID, its name, its attributes with
//! their raw values. A line of JSON holds one; the same object is always the same line.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where the GUID begins in a line: after `{"guid":"`.
const GUID_AT: usize = 9;
/// How long a GUID is as text.
const GUID_CHARS: usize = 36;

/// The values of an attribute, raw.
pub type Values = Vec<Vec<u8>>;

/// One object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Object {
    pub guid: Uuid,
    pub dn: String,
    pub attributes: Attributes,
}

/// Attributes by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, Vec<Value>>", into = "BTreeMap<String, Vec<Value>>")]
pub struct Attributes(pub BTreeMap<String, Values>);

/// A value as people can read it where it is text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Bytes { base64: String },
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => Self::Bytes { base64: BASE64.encode(error.as_bytes()) },
        }
    }
}

impl From<Value> for Vec<u8> {
    fn from(value: Value) -> Self {
        match value {
            Value::Text(text) => text.into_bytes(),
            Value::Bytes { base64 } => BASE64.decode(base64.as_bytes()).unwrap_or_default(),
        }
    }
}

impl From<BTreeMap<String, Vec<Value>>> for Attributes {
    fn from(read: BTreeMap<String, Vec<Value>>) -> Self {
        let values = |values: Vec<Value>| values.into_iter().map(Vec::from).collect();
        Self(read.into_iter().map(|(name, given)| (name, values(given))).collect())
    }
}

impl From<Attributes> for BTreeMap<String, Vec<Value>> {
    fn from(attributes: Attributes) -> Self {
        let values = |values: Values| values.into_iter().map(Value::from).collect();
        attributes.0.into_iter().map(|(name, given)| (name, values(given))).collect()
    }
}

/// Raw values where a file holds them, as text where they are text.
pub(super) mod raw {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Value, Values};

    pub(in super::super) fn serialize<S: Serializer>(
        values: &Values,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let values: Vec<Value> = values.iter().cloned().map(Value::from).collect();
        values.serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Values, D::Error> {
        let values = Vec::<Value>::deserialize(deserializer)?;
        Ok(values.into_iter().map(Vec::from).collect())
    }
}

impl Object {
    /// The values of an attribute; none where it is not there.
    pub fn values(&self, name: &str) -> &[Vec<u8>] {
        self.attributes.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// The first value of an attribute as text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.values(name).first().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Whether the object was deleted when it was read.
    pub fn is_deleted(&self) -> bool {
        self.text("isDeleted") == Some("TRUE")
    }

    /// The line, with its end.
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// From a line.
    pub fn read(line: &[u8]) -> Option<Self> {
        serde_json::from_slice(line.trim_ascii_end()).ok()
    }
}

/// The GUID of a line as text, without reading the rest.
pub(super) fn guid_of(line: &[u8]) -> Option<&str> {
    std::str::from_utf8(line.get(GUID_AT..GUID_AT + GUID_CHARS)?).ok()
}

/// A name as it is compared: without regard to case.
pub fn folded(dn: &str) -> String {
    dn.to_lowercase()
}

/// The name in a value that may have bytes or text before it, as `B:2:00:CN=x`.
pub fn named(value: &str) -> &str {
    match value.get(..2) {
        Some("B:" | "S:") => value.splitn(4, ':').nth(3).unwrap_or(value),
        _ => value,
    }
}

/// The name of whatever is above, if anything is.
pub fn parent(dn: &str) -> Option<&str> {
    let mut escaped = false;
    for (at, byte) in dn.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => return dn.get(at + 1..),
            _ => {}
        }
    }
    None
}

/// How many names are above.
pub fn depth(dn: &str) -> usize {
    std::iter::successors(parent(dn), |above| parent(above)).count()
}

/// Whether `dn` is `base` or below it.
pub fn is_within(dn: &str, base: &str) -> bool {
    let (dn, base) = (folded(dn), folded(base));
    dn == base || dn.strip_suffix(&base).is_some_and(|rest| rest.ends_with(','))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_back_every_byte() {
        let mut attributes = BTreeMap::new();
        attributes.insert("cn".to_owned(), vec!["Zo\u{eb} \"x\"\n".as_bytes().to_vec()]);
        attributes.insert("photo".to_owned(), vec![vec![0xff, 0, 0xd8], vec![]]);
        let guid = Uuid::from_bytes_le([7; 16]);
        let object = Object { guid, dn: "CN=x".to_owned(), attributes: Attributes(attributes) };
        let line = object.line();
        assert_eq!(guid_of(&line), Some(guid.to_string().as_str()));
        assert_eq!(Object::read(&line), Some(object));
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    }

    #[test]
    fn names_are_taken_apart_where_they_are_joined() {
        let dn = "CN=Last\\, First,OU=Staff,DC=test";
        assert_eq!(parent(dn), Some("OU=Staff,DC=test"));
        assert_eq!(depth(dn), 2);
        assert!(is_within(dn, "ou=staff,dc=TEST"));
        assert!(!is_within("OU=MyStaff,DC=test", "Staff,DC=test"));
        assert!(!is_within("DC=test", "OU=Staff,DC=test"));
    }
}
