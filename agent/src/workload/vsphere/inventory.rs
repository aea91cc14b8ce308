//! What a server has, by its property collector: the machine that is meant, its snapshots, the
//! state of a task. Pages of an answer are all read.

use super::session::{Reference, Session, SoapError};
use crate::workload::xml::{Element, escape};

/// Machines told at a time.
const PAGE: u32 = 500;

/// What is known of one thing.
#[derive(Clone, Debug)]
pub struct Known {
    pub reference: Reference,
    properties: Vec<Element>,
}

impl Known {
    /// The value of a property that was asked for.
    pub fn value(&self, name: &str) -> Option<&Element> {
        self.properties.iter().find(|set| set.text_at("name") == name)?.child("val")
    }

    /// The value as text; nothing where there is none.
    pub fn text(&self, name: &str) -> &str {
        self.value(name).map_or("", |value| value.text.as_str())
    }
}

/// A machine that cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// Two or more.
    #[error(
        "{host} has {} machines called {machine}: name one by its id, {}",
        .ids.len(),
        .ids.join(" or ")
    )]
    Ambiguous { host: String, machine: String, ids: Vec<String> },
    /// None.
    #[error(
        "{host} has no machine called {machine}, by name or by id, that this user can see; it \
         shows {seen} others"
    )]
    None { host: String, machine: String, seen: usize },
}

/// Properties of one thing.
///
/// # Errors
/// The server does not tell.
pub fn properties(session: &Session, of: &Reference, names: &[&str]) -> Result<Known, SoapError> {
    let object = format!("<objectSet>{}<skip>false</skip></objectSet>", of.element("obj"));
    let found = retrieve(session, &of.kind, names, &object)?;
    let none = || Known { reference: of.clone(), properties: Vec::new() };
    Ok(found.into_iter().next().unwrap_or_else(none))
}

/// Every machine the user can see, with these properties.
///
/// # Errors
/// The server does not tell.
pub fn machines(session: &Session, names: &[&str]) -> Result<Vec<Known>, SoapError> {
    let words = format!(
        "{}<type>VirtualMachine</type><recursive>true</recursive>",
        session.content.the("rootFolder").element("container")
    );
    let made = session.call("CreateContainerView", &session.content.the("viewManager"), &words)?;
    let view = made.child("returnval").cloned().unwrap_or_default();
    let view = Reference::of(&view, "ContainerView");
    let object = format!(
        "<objectSet>{}<skip>true</skip><selectSet xsi:type=\"TraversalSpec\"><name>view</name>\
         <type>ContainerView</type><path>view</path><skip>false</skip></selectSet></objectSet>",
        view.element("obj")
    );
    let found = retrieve(session, "VirtualMachine", names, &object);
    if let Err(error) = session.call("DestroyView", &view, "") {
        tracing::debug!(%error, "a view goes with the session");
    }
    found
}

fn retrieve(
    session: &Session,
    kind: &str,
    names: &[&str],
    object: &str,
) -> Result<Vec<Known>, SoapError> {
    let paths: String =
        names.iter().map(|name| format!("<pathSet>{}</pathSet>", escape(*name))).collect();
    let words = format!(
        "<specSet><propSet><type>{}</type>{paths}</propSet>{object}</specSet>\
         <options><maxObjects>{PAGE}</maxObjects></options>",
        escape(kind)
    );
    let collector = session.content.the("propertyCollector");
    let mut answer = session.call("RetrievePropertiesEx", &collector, &words)?;
    let mut known = Vec::new();
    loop {
        let Some(page) = answer.child("returnval") else { return Ok(known) };
        known.extend(page.all("objects").map(|object| {
            Known {
                reference: object
                    .child("obj")
                    .map_or_else(|| Reference::new(kind, ""), |obj| Reference::of(obj, kind)),
                properties: object.all("propSet").cloned().collect(),
            }
        }));
        let token = page.text_at("token").to_owned();
        if token.is_empty() {
            return Ok(known);
        }
        let words = format!("<token>{}</token>", escape(&token));
        answer = session.call("ContinueRetrievePropertiesEx", &collector, &words)?;
    }
}

/// The one machine of this name, or else of this id.
///
/// # Errors
/// There is none, or more than one of the name.
pub fn machine(all: &[Known], host: &str, machine: &str) -> Result<Reference, MachineError> {
    let named: Vec<&Known> = all.iter().filter(|known| known.text("name") == machine).collect();
    let found = match named.as_slice() {
        [] => all.iter().find(|known| known.reference.value == machine),
        [one] => Some(*one),
        several => {
            let ids = several.iter().map(|known| known.reference.value.clone()).collect();
            let (host, machine) = (host.to_owned(), machine.to_owned());
            return Err(MachineError::Ambiguous { host, machine, ids });
        }
    };
    let none = || MachineError::None {
        host: host.to_owned(),
        machine: machine.to_owned(),
        seen: all.len(),
    };
    found.map(|known| known.reference.clone()).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, name: &str) -> Known {
        let set = format!("<propSet><name>name</name><val>{name}</val></propSet>");
        let properties = vec![Element::parse(set.as_bytes()).unwrap()];
        Known { reference: Reference::new("VirtualMachine", id), properties }
    }

    #[test]
    fn a_machine_is_meant_by_name_before_id_and_two_of_a_name_are_refused() {
        let all =
            [known("vm-1", "a"), known("vm-2", "b"), known("vm-3", "b"), known("vm-4", "vm-1")];
        let id = |word: &str| machine(&all, "vc", word).map(|found| found.value);
        assert_eq!(id("a").unwrap(), "vm-1");
        assert_eq!(id("vm-2").unwrap(), "vm-2");
        assert_eq!(id("vm-1").unwrap(), "vm-4");
        assert!(id("b").unwrap_err().to_string().contains("vm-2 or vm-3"));
        assert!(id("c").unwrap_err().to_string().contains("no machine called c"));
    }
}
