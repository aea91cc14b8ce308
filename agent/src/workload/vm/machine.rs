//! What a machine is and which disks it has, from what its monitor tells. Pure.

use serde::Serialize;
use serde_json::Value;

use crate::workload::compose::blocks::BLOCK_BYTES;

/// A disk that can be protected.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Disk {
    /// As a person would point at it, usable as a file name.
    pub name: String,
    /// The node of the block graph that the guest's device uses.
    pub node: String,
    /// The image's file.
    pub file: String,
    /// The image's format.
    pub format: String,
    /// As the guest sees it.
    pub bytes: u64,
    /// Whether a bitmap in it outlives the machine's process.
    pub persistent: bool,
    #[serde(skip)]
    pub bitmaps: Vec<Bitmap>,
}

/// A dirty bitmap of a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    pub name: String,
    pub granularity: u64,
    pub recording: bool,
    pub busy: bool,
    pub inconsistent: bool,
}

/// A device that is not protected, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct LeftOut {
    pub name: String,
    pub why: String,
}

/// The disks in an answer to `query-block`, and what is no disk to protect.
pub fn disks(answer: &Value, exclude: &[&str]) -> (Vec<Disk>, Vec<LeftOut>) {
    let (mut disks, mut left_out) = (Vec::<Disk>::new(), Vec::new());
    for (index, device) in answer.as_array().into_iter().flatten().enumerate() {
        let name = unique(name_of(device, index), &disks);
        let disk = match disk(device, &name) {
            Ok(_) if exclude.contains(&name.as_str()) => Err("the policy leaves it out".to_owned()),
            Ok(disk) if disks.iter().any(|known| known.node == disk.node) => {
                Err("it is the same image as another device's".to_owned())
            }
            told => told,
        };
        match disk {
            Ok(disk) => disks.push(disk),
            Err(why) => left_out.push(LeftOut { name, why }),
        }
    }
    (disks, left_out)
}

fn disk(device: &Value, name: &str) -> Result<Disk, String> {
    let inserted = &device["inserted"];
    let image = &inserted["image"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if !inserted.is_object() {
        return Err("no medium is in it".to_owned());
    }
    if device["removable"] == true {
        return Err("it is a removable medium".to_owned());
    }
    if inserted["ro"] == true {
        return Err("it is read-only, and nothing of the machine is kept there".to_owned());
    }
    let bytes = image["virtual-size"].as_u64().filter(|bytes| *bytes > 0);
    let bytes = bytes.ok_or("its size is not known")?;
    let format = text(&inserted["drv"]);
    let old = image["format-specific"]["data"]["compat"] == "0.10";
    let bitmaps = inserted["dirty-bitmaps"].as_array().into_iter().flatten().map(bitmap).collect();
    Ok(Disk {
        name: name.to_owned(),
        node: text(&inserted["node-name"]),
        file: text(&inserted["file"]),
        persistent: format == "qcow2" && !old,
        format,
        bytes,
        bitmaps,
    })
}

fn bitmap(told: &Value) -> Bitmap {
    Bitmap {
        name: told["name"].as_str().unwrap_or_default().to_owned(),
        granularity: told["granularity"].as_u64().unwrap_or_default(),
        recording: told["recording"] == true,
        busy: told["busy"] == true,
        inconsistent: told["inconsistent"] == true,
    }
}

/// What the device was called, by its id, the older name of its drive, or its node.
fn name_of(device: &Value, index: usize) -> String {
    let qdev = device["qdev"].as_str().unwrap_or_default();
    let id = qdev.strip_prefix("/machine/peripheral/").unwrap_or(qdev);
    let id = id.strip_suffix("/virtio-backend").unwrap_or(id);
    let named = [
        device["device"].as_str().unwrap_or_default(),
        if id.contains('/') { "" } else { id },
        device["inserted"]["node-name"].as_str().unwrap_or_default(),
    ];
    let name = named.into_iter().find(|name| !name.is_empty() && !name.starts_with('#'));
    let usable = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    match name.map(|name| name.trim_start_matches('.').chars().map(usable).collect::<String>()) {
        Some(name) if !name.is_empty() => name,
        _ => format!("disk{index}"),
    }
}

fn unique(name: String, disks: &[Disk]) -> String {
    let taken = |name: &str| disks.iter().any(|disk| disk.name == name);
    let mut all = std::iter::once(name.clone()).chain((2..).map(|n| format!("{name}.{n}")));
    all.find(|name| !taken(name)).unwrap_or(name)
}

/// Why a disk is read whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Whole {
    /// There is nothing to build on: no news.
    First,
    /// There should have been.
    Doubt(String),
}

impl Disk {
    /// Whether its bitmap of this name tells what changed since the point it belongs to.
    ///
    /// # Errors
    /// Why it is to be read whole.
    pub fn follows(&self, bitmap: &str) -> Result<(), Whole> {
        let doubt = |why: &str| Err(Whole::Doubt(format!("its bitmap {bitmap} {why}")));
        let Some(known) = self.bitmaps.iter().find(|known| known.name == bitmap) else {
            return doubt(
                "is missing: the image was replaced, or the machine was ended and its format \
                 keeps no bitmap",
            );
        };
        match known {
            Bitmap { inconsistent: true, .. } => {
                doubt("is inconsistent: the machine's process did not end in order")
            }
            Bitmap { recording: false, .. } => doubt("does not record"),
            Bitmap { busy: true, .. } => doubt("is in use by somebody else"),
            Bitmap { granularity, .. } if *granularity != u64::from(BLOCK_BYTES) => {
                doubt("is of another granularity")
            }
            Bitmap { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device(qdev: &str, node: &str, more: Value) -> Value {
        let mut inserted = json!({
            "node-name": node, "drv": "qcow2", "file": "/a.qcow2", "ro": false,
            "image": { "virtual-size": 1 << 20 },
        });
        inserted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "device": "", "qdev": qdev, "removable": false, "inserted": inserted })
    }

    #[test]
    fn disks_are_named_as_people_know_them_and_what_is_left_out_is_said() {
        let mut cd = device("/machine/peripheral/cd0", "cd", json!({}));
        cd["removable"] = true.into();
        let answer = json!([
            device("/machine/peripheral/vd0/virtio-backend", "drive0", json!({})),
            device("/machine/peripheral-anon/device[1]/virtio-backend", "drive1", json!({})),
            device("/machine/peripheral-anon/device[2]", "#block12", json!({ "drv": "raw" })),
            device("/machine/peripheral/twin", "drive0", json!({})),
            device("/machine/peripheral/code", "code", json!({ "ro": true })),
            cd,
            json!({ "device": "floppy0", "removable": true }),
            device("/machine/peripheral/swap", "swap", json!({})),
        ]);
        let (found, left_out) = disks(&answer, &["swap"]);
        let names: Vec<&str> = found.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["vd0", "drive1", "disk2"]);
        assert_eq!(found.iter().map(|d| d.persistent).collect::<Vec<_>>(), [true, true, false]);
        let names: Vec<&str> = left_out.iter().map(|left| left.name.as_str()).collect();
        assert_eq!(names, ["twin", "code", "cd0", "floppy0", "swap"]);
        assert_eq!(left_out[4].why, "the policy leaves it out");
    }

    #[test]
    fn a_chain_is_followed_only_by_a_sound_bitmap() {
        let sound = json!({ "name": "b", "granularity": 65536, "recording": true, "busy": false });
        let follows = |key: &str, value: Value| {
            let mut bitmap = sound.clone();
            bitmap[key] = value;
            let answer = json!([device(
                "/machine/peripheral/v",
                "n",
                json!({
                    "dirty-bitmaps": [bitmap]
                })
            )]);
            disks(&answer, &[]).0[0].follows("b")
        };
        assert_eq!(follows("status", json!("active")), Ok(()));
        for (key, value, why) in [
            ("name", json!("other"), "missing"),
            ("inconsistent", json!(true), "inconsistent"),
            ("recording", json!(false), "does not record"),
            ("busy", json!(true), "in use"),
            ("granularity", json!(4096), "granularity"),
        ] {
            let Err(Whole::Doubt(told)) = follows(key, value) else { panic!("{key}") };
            assert!(told.contains(why), "{told}");
        }
    }
}
