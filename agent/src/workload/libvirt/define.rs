//! A machine that was restored, made one of libvirt's again: its kept definition with its disks
//! where they lie now. Under another name it is another machine, with a UUID and addresses of its
//! own and none of the disks that stayed behind; under its own name it is the same. Either way it
//! gets a new generation id, so that its guest sees that time went back.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quick_xml::escape::unescape;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

use super::virsh::{DEED, Virsh, VirshError};
use crate::workload::xml::{Element, XmlError};

/// Where the definition lies in a restored point.
const DEFINITION: &str = "config/domain.xml";
/// Where the configuration of a machine lies in a point.
pub const CONFIG: &str = "config";
/// What is made of it, beside it.
const DEFINED: &str = "config/defined.xml";

/// A disk that was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// As the definition calls it: `vda`.
    pub name: String,
    pub file: PathBuf,
    pub format: &'static str,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defined {
    /// Disks of the old machine that the new one lacks.
    pub without: Vec<String>,
    /// What a person has to do still.
    pub remarks: Vec<String>,
}

/// Why it was not defined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DefineError {
    /// A machine of that name is there.
    #[error(
        "libvirt at {uri} has a machine {name:?} already; give another name, or take that one's \
         definition away (`virsh undefine --keep-nvram --checkpoints-metadata`)"
    )]
    Exists { uri: String, name: String },
    /// The point was of a machine of QEMU alone.
    #[error(
        "{} is not there: the point is not of a machine of libvirt, or only a part of it was \
         restored", .path.display()
    )]
    Absent { path: PathBuf, source: io::Error },
    /// The definition.
    #[error("the kept definition cannot be used")]
    Definition(#[from] XmlError),
    /// libvirt.
    #[error("the machine cannot be defined")]
    Libvirt(#[from] VirshError),
    /// The new definition cannot be written.
    #[error("{} cannot be written", .path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

/// Defines the machine that was restored into `dir` as `name`, without starting it.
///
/// # Errors
/// There is one of that name, or libvirt will not have it.
pub fn define(uri: &str, dir: &Path, name: &str, disks: &[Placed]) -> Result<Defined, DefineError> {
    let virsh = Virsh::of(uri)?;
    if virsh.names()?.iter().any(|known| known == name) {
        return Err(DefineError::Exists { uri: uri.to_owned(), name: name.to_owned() });
    }
    let path = dir.join(DEFINITION);
    let kept = fs::read_to_string(&path).map_err(|source| DefineError::Absent { path, source })?;
    let variables =
        |was: &Path| Some(dir.join(CONFIG).join(was.file_name()?)).filter(|p| p.exists());
    let (text, mut defined) = renamed(&kept, name, disks, &variables)?;
    let path = dir.join(DEFINED);
    // It may hold passwords.
    let written = tempfile::NamedTempFile::new_in(dir.join(CONFIG)).and_then(|mut file| {
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.persist(&path).map_err(|error| error.error).map(drop)
    });
    written.map_err(|source| DefineError::Unwritable { path: path.clone(), source })?;
    virsh.ask(&["define", "--file", &path.to_string_lossy(), "--validate"], DEED)?;
    let tpm = dir.join(CONFIG).join("tpm");
    if tpm.exists() {
        let text = "its TPM starts empty: before its first start put what lies in {} into the \
                    directory that libvirt gives its TPM (swtpm/UUID in libvirt's own)";
        defined.remarks.push(text.replace("{}", &tpm.to_string_lossy()));
    }
    Ok(defined)
}

/// The definition with another name and its disks where they are now.
fn renamed(
    xml: &str,
    name: &str,
    placed: &[Placed],
    variables: &dyn Fn(&Path) -> Option<PathBuf>,
) -> Result<(String, Defined), XmlError> {
    let top = Element::parse(xml.as_bytes())?;
    let other = top.text_at("name").trim() != name;
    let devices = top.child("devices").into_iter().flat_map(|devices| devices.all("disk"));
    let mut defined = Defined::default();
    let plans = devices.map(|disk| {
        let target = disk.child("target").and_then(|target| target.attribute("dev"));
        let target = target.unwrap_or_default().to_owned();
        match placed.iter().find(|placed| placed.name == target) {
            Some(placed) => Plan::Placed(disk.clone(), placed.clone()),
            // Two machines that write to one disk destroy it.
            None if other && matches!(disk.attribute("device"), None | Some("disk" | "lun")) => {
                defined.without.push(target);
                Plan::Without
            }
            None => Plan::AsItIs,
        }
    });
    let plans = plans.collect();
    let mut rewriting = Rewriting { name, other, variables, plans, path: Vec::new() };
    let text = rewriting.run(xml)?;
    Ok((text, defined))
}

/// What becomes of a disk's element.
enum Plan {
    AsItIs,
    Placed(Element, Placed),
    Without,
}

struct Rewriting<'told> {
    name: &'told str,
    other: bool,
    variables: &'told dyn Fn(&Path) -> Option<PathBuf>,
    /// Of the disks, in their order, the next first.
    plans: VecDeque<Plan>,
    path: Vec<String>,
}

/// Whether an element is written as it is.
#[derive(PartialEq, Eq)]
enum Turn {
    Copy,
    /// Something was written in its place, or nothing.
    Skip,
}

impl Rewriting<'_> {
    fn run(&mut self, xml: &str) -> Result<String, XmlError> {
        let mut reader = Reader::from_str(xml);
        let mut out = Writer::new(Vec::new());
        loop {
            match reader.read_event().map_err(malformed)? {
                Event::Eof => break,
                Event::Start(start) => {
                    self.path.push(start.name().into_inner().to_owned());
                    let mut text = String::new();
                    if self.is_leaf() {
                        let raw = reader.read_text(start.name()).map_err(malformed)?;
                        text = unescape(&raw).map_err(malformed)?.into_owned();
                    }
                    match self.turn(&start, &text, &mut out)? {
                        Turn::Copy => write(&mut out, Event::Start(start))?,
                        Turn::Skip => {
                            if !self.is_leaf() {
                                reader.read_to_end(start.name()).map_err(malformed)?;
                            }
                            self.path.pop();
                        }
                    }
                }
                Event::Empty(start) => {
                    self.path.push(start.name().into_inner().to_owned());
                    if self.turn(&start, "", &mut out)? == Turn::Copy {
                        write(&mut out, Event::Empty(start))?;
                    }
                    self.path.pop();
                }
                Event::End(end) => {
                    self.path.pop();
                    write(&mut out, Event::End(end))?;
                }
                event => write(&mut out, event)?,
            }
        }
        String::from_utf8(out.into_inner()).map_err(malformed)
    }

    /// Whether what is here is a text that is decided as a whole, and never copied as it is.
    fn is_leaf(&self) -> bool {
        let path = self.path.join(".");
        matches!(path.as_str(), "domain.name" | "domain.uuid" | "domain.genid" | "domain.os.nvram")
    }

    fn turn(
        &mut self,
        start: &BytesStart<'_>,
        text: &str,
        out: &mut Writer<Vec<u8>>,
    ) -> Result<Turn, XmlError> {
        let path = self.path.join(".");
        match path.as_str() {
            "domain.name" => with_text(out, start, self.name)?,
            "domain.uuid" if self.other => {}
            "domain.uuid" => with_text(out, start, text)?,
            "domain.genid" => write(out, Event::Empty(BytesStart::new("genid")))?,
            "domain.os.nvram" => match (self.variables)(Path::new(text.trim())) {
                Some(found) => with_text(out, start, &found.to_string_lossy())?,
                // Without its own it begins with those of its template.
                None if self.other => {}
                None => with_text(out, start, text)?,
            },
            "domain.devices.interface.mac" if self.other => {}
            "domain.devices.disk" => match self.plans.pop_front() {
                Some(Plan::Placed(disk, placed)) => place(out, &disk, &placed)?,
                Some(Plan::Without) => {}
                Some(Plan::AsItIs) | None => return Ok(Turn::Copy),
            },
            _ => return Ok(Turn::Copy),
        }
        Ok(Turn::Skip)
    }
}

/// A disk's element with its image where it is now.
fn place(out: &mut Writer<Vec<u8>>, disk: &Element, placed: &Placed) -> Result<(), XmlError> {
    let file = placed.file.to_string_lossy();
    let mut start = BytesStart::new("disk");
    start.push_attribute(("type", "file"));
    start.push_attribute(("device", "disk"));
    write(out, Event::Start(start))?;
    let mut driver = BytesStart::new("driver");
    driver.push_attribute(("name", "qemu"));
    driver.push_attribute(("type", placed.format));
    for key in ["cache", "discard", "detect_zeroes", "io", "iothread"] {
        let said = disk.child("driver").and_then(|driver| driver.attribute(key));
        if let Some(value) = said {
            driver.push_attribute((key, value));
        }
    }
    write(out, Event::Empty(driver))?;
    let mut source = BytesStart::new("source");
    source.push_attribute(("file", &*file));
    write(out, Event::Empty(source))?;
    let own = ["driver", "source", "backingStore", "mirror"];
    for child in disk.children.iter().filter(|child| !own.contains(&child.name.as_str())) {
        copy(out, child)?;
    }
    write(out, Event::End(BytesEnd::new("disk")))
}

fn copy(out: &mut Writer<Vec<u8>>, element: &Element) -> Result<(), XmlError> {
    let mut start = BytesStart::new(element.name.as_str());
    for (key, value) in element.attributes() {
        start.push_attribute((key, value));
    }
    write(out, Event::Start(start))?;
    write(out, Event::Text(BytesText::new(&element.text)))?;
    for child in &element.children {
        copy(out, child)?;
    }
    write(out, Event::End(BytesEnd::new(element.name.as_str())))
}

fn with_text(
    out: &mut Writer<Vec<u8>>,
    start: &BytesStart<'_>,
    text: &str,
) -> Result<(), XmlError> {
    write(out, Event::Start(start.borrow()))?;
    write(out, Event::Text(BytesText::new(text)))?;
    write(out, Event::End(start.to_end()))
}

fn write(out: &mut Writer<Vec<u8>>, event: Event<'_>) -> Result<(), XmlError> {
    out.write_event(event).map_err(malformed)
}

fn malformed(why: impl std::fmt::Display) -> XmlError {
    XmlError::Malformed { why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: &str = "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name><uuid>u-1</uuid><genid>g-1</genid>
  <os><nvram template='/t.fd'>/v/web_VARS.fd</nvram></os>
  <devices><emulator>/usr/bin/qemu</emulator>
    <disk type='block' device='disk'><driver name='qemu' type='raw' cache='none'/>
      <source dev='/dev/vg/a'/><backingStore/><target dev='vda' bus='virtio'/>
      <serial>A&amp;1</serial></disk>
    <disk type='file' device='disk'><source file='/swap'/><target dev='vdb'/></disk>
    <disk type='file' device='cdrom'><source file='/cd.iso'/><target dev='sda'/></disk>
    <interface type='network'><mac address='52:54:00:00:00:01'/><source network='n'/></interface>
  </devices>
  <qemu:commandline><qemu:arg value='-x'/></qemu:commandline>
</domain>";

    fn placed() -> Vec<Placed> {
        let file = PathBuf::from("/srv/w&1/disks/vda.qcow2");
        vec![Placed { name: "vda".to_owned(), file, format: "qcow2" }]
    }

    #[test]
    fn under_another_name_it_is_another_machine_with_its_own_disks_alone() {
        let variables = |was: &Path| Some(Path::new("/new").join(was.file_name()?));
        let (text, defined) = renamed(KEPT, "web2", &placed(), &variables).unwrap();
        let top = Element::parse(text.as_bytes()).unwrap();
        assert_eq!((top.text_at("name"), top.at("uuid")), ("web2", None));
        assert_eq!(top.text_at("genid"), "");
        assert_eq!(top.text_at("os.nvram"), "/new/web_VARS.fd");
        assert_eq!(top.at("os.nvram").unwrap().attribute("template"), Some("/t.fd"));
        let disks: Vec<&Element> = top.child("devices").unwrap().all("disk").collect();
        assert_eq!((disks.len(), defined.without), (2, vec!["vdb".to_owned()]));
        assert_eq!(disks[0].attribute("type"), Some("file"));
        let source = disks[0].child("source").unwrap();
        assert_eq!(source.attribute("file"), Some("/srv/w&1/disks/vda.qcow2"));
        let driver = disks[0].child("driver").unwrap();
        let told = ["type", "cache"].map(|key| driver.attribute(key).unwrap());
        assert_eq!((told, disks[0].text_at("serial")), (["qcow2", "none"], "A&1"));
        assert_eq!(disks[1].attribute("device"), Some("cdrom"));
        let interface = top.at("devices.interface").unwrap();
        assert_eq!(interface.children.len(), 1);
        assert!(text.contains("<qemu:arg value='-x'/>") && text.contains("xmlns:qemu"), "{text}");
    }

    #[test]
    fn under_its_own_name_it_is_the_same_machine() {
        let (text, defined) = renamed(KEPT, "web", &placed(), &|_| None).unwrap();
        let top = Element::parse(text.as_bytes()).unwrap();
        assert_eq!((top.text_at("uuid"), defined.without.len()), ("u-1", 0));
        assert_eq!(top.text_at("os.nvram"), "/v/web_VARS.fd");
        assert_eq!(top.child("devices").unwrap().all("disk").count(), 3);
        assert!(text.contains("52:54:00:00:00:01"));
        assert!(renamed("<domain>", "web", &[], &|_| None).is_err());
    }
}
