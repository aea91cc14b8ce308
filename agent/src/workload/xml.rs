//! An XML document as a tree of elements, as SOAP and libvirt need it: names without their
//! prefixes, text and attributes, nothing mixed. Refuses definitions of entities and depths nobody
//! has.

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};

pub use quick_xml::escape::escape;

/// Levels of elements: the deepest answer has a dozen.
const DEPTH_MAX: usize = 64;
const XMLNS: &str = "xmlns";
/// What prefixes are of the attribute that says the kind of an element.
const INSTANCE: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// That attribute, whatever prefix it came with.
const KIND: &str = "xsi:type";

/// Not a document that can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XmlError {
    /// Something it does that no answer has reason to.
    #[error("it has {0}, which no answer does")]
    Has(&'static str),
    /// Something that is not there.
    #[error("it lacks {0}")]
    Lacks(&'static str),
    /// Not XML.
    #[error("it is no XML: {why}")]
    Malformed { why: String },
}

/// An element.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    /// Without its prefix.
    pub name: String,
    attributes: Vec<(String, String)>,
    pub text: String,
    pub children: Vec<Self>,
}

impl Element {
    /// Reads a document.
    ///
    /// # Errors
    /// It is not one that can be used.
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        let text = std::str::from_utf8(bytes).map_err(malformed)?;
        let mut reader = Reader::from_str(text);
        let mut open: Vec<Self> = Vec::new();
        loop {
            match reader.read_event().map_err(malformed)? {
                Event::Start(start) => {
                    open.push(Self::begin(&start)?);
                    if open.len() > DEPTH_MAX {
                        return Err(XmlError::Has("too many levels"));
                    }
                }
                Event::Empty(start) => {
                    let element = Self::begin(&start)?;
                    match open.last_mut() {
                        Some(above) => above.children.push(element),
                        None => return Ok(element),
                    }
                }
                Event::End(_) => {
                    let Some(mut element) = open.pop() else {
                        return Err(XmlError::Lacks("a beginning"));
                    };
                    if !element.children.is_empty() {
                        element.text.clear();
                    }
                    match open.last_mut() {
                        Some(above) => above.children.push(element),
                        None => return Ok(element),
                    }
                }
                Event::Text(text) => add(&mut open, &text.xml10_content()),
                Event::CData(text) => add(&mut open, &text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let whole = format!("&{};", &*reference);
                    let text = unescape(&whole).map_err(malformed)?;
                    add(&mut open, &text);
                }
                Event::DocType(_) => return Err(XmlError::Has("definitions")),
                Event::Eof => return Err(XmlError::Lacks("an end")),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn begin(start: &BytesStart<'_>) -> Result<Self, XmlError> {
        let mut attributes = Vec::new();
        for attribute in start.attributes() {
            let attribute = attribute.map_err(malformed)?;
            let value = unescape(&attribute.value).map_err(malformed)?.into_owned();
            let name: &str = attribute.key.into_inner();
            match name.split_once(':') {
                // Every server has its own prefix for the kind of an element.
                Some((prefix, "type")) if prefix != XMLNS => {
                    attributes.push((KIND.to_owned(), value));
                }
                Some((XMLNS, _)) => {}
                _ if name == XMLNS => {}
                _ => attributes.push((name.to_owned(), value)),
            }
        }
        let name = start.local_name().into_inner().to_owned();
        Ok(Self { name, attributes, ..Self::default() })
    }

    /// An attribute by its whole name.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// All attributes, in their order.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What the server says that it is.
    pub fn kind(&self) -> &str {
        let kind = self.attribute(KIND).unwrap_or_default();
        kind.rsplit(':').next().unwrap_or(kind)
    }

    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The children of this name.
    pub fn all<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'s Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// What lies at names with points between them.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |element, name| element.child(name))
    }

    /// The text there; nothing where there is none.
    pub fn text_at(&self, path: &str) -> &str {
        self.at(path).map_or("", |element| element.text.as_str())
    }

    /// The text there as a number.
    pub fn number_at<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text_at(path).trim().parse().ok()
    }

    /// As text again, an element a line.
    pub fn write(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        self.write_below(&mut text, 0);
        text
    }

    fn write_below(&self, text: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        text.push_str(&format!("{indent}<{}", self.name));
        if depth == 0 {
            text.push_str(&format!(" {XMLNS}:xsi=\"{INSTANCE}\""));
        }
        for (name, value) in &self.attributes {
            text.push_str(&format!(" {name}=\"{}\"", escape(value)));
        }
        if self.children.is_empty() {
            text.push_str(&format!(">{}</{}>\n", escape(&self.text), self.name));
            return;
        }
        text.push_str(">\n");
        for child in &self.children {
            child.write_below(text, depth + 1);
        }
        text.push_str(&format!("{indent}</{}>\n", self.name));
    }
}

fn add(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn malformed(why: impl std::fmt::Display) -> XmlError {
    XmlError::Malformed { why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_read_and_written_as_it_was() {
        let text = "<?xml version=\"1.0\"?><s:a xmlns:s=\"x\"> <b type=\"T&amp;\">1 &lt; 2&#33;</b>\
                    <b xmlns:i=\"y\" i:type=\"xsd:c\"/><d><e><![CDATA[<raw>]]></e></d> </s:a>";
        let read = Element::parse(text.as_bytes()).unwrap();
        assert_eq!((read.name.as_str(), read.text.as_str()), ("a", ""));
        assert_eq!(read.text_at("b"), "1 < 2!");
        assert_eq!(read.child("b").unwrap().attribute("type"), Some("T&"));
        assert_eq!(read.all("b").nth(1).unwrap().kind(), "c");
        assert_eq!(read.text_at("d.e"), "<raw>");
        let again = Element::parse(read.write().as_bytes()).unwrap();
        assert_eq!(again, read);
    }

    #[test]
    fn what_no_answer_does_is_refused() {
        let deep = "<a>".repeat(DEPTH_MAX + 1);
        for wrong in
            ["", "<a>", "<a></b>", "<!DOCTYPE a [<!ENTITY e \"x\">]><a/>", "<a>&e;</a>", &deep]
        {
            assert!(Element::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
