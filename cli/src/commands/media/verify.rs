//! `media verify`: every block of cartridges is read and every file checked against its
//! catalog, without any node and without a key. What is damaged is named with where else it
//! lies.

use serde::Serialize;
use strongroom_store::media::{FileReport, Health, MediumInfo, Verdict};

use crate::failure::{Ending, Failure};
use crate::human;
use crate::output::{Face, Output};
use crate::progress::Line;
use crate::shelf::Shelf;
use crate::show::{Align, Sheet};

/// What reading one cartridge came to.
#[derive(Debug, Serialize)]
pub(crate) struct Read {
    pub(crate) barcode: String,
    medium: String,
    files: usize,
    bytes: u64,
    pub(crate) damaged: Vec<Damaged>,
    /// Files without an end: a session broke off there, and nothing of it counted.
    unfinished: usize,
    /// Why it could not be read through.
    stopped: Option<String>,
}

/// A file that is not as it was written.
#[derive(Debug, Serialize)]
pub(crate) struct Damaged {
    file: u32,
    kind: String,
    what: String,
    pub(crate) pack: Option<String>,
    /// Cartridges that hold the same pack.
    also_on: Vec<String>,
}

impl Read {
    const fn is_well(&self) -> bool {
        self.damaged.is_empty() && self.stopped.is_none()
    }
}

/// Reads the cartridges of these barcodes, or all that are here; blocking.
pub(super) fn run(shelf: &Shelf, barcodes: &[String], out: &Output) -> Result<Ending, Failure> {
    let mut line = Line::new(out);
    let all = read_all(shelf, barcodes, &mut |barcode| line.say(format!("reading {barcode}")))?;
    line.clear();
    out.either(&all, |face| table(&all, face))?;
    let absent: Vec<String> = shelf
        .media()
        .into_iter()
        .filter(|medium| barcodes.is_empty() && medium.health == Health::Absent)
        .map(|medium| medium.barcode.to_string())
        .collect();
    if !absent.is_empty() {
        out.remark(&format!("not here, and not read: {}", absent.join(" ")));
    }
    if all.is_empty() {
        return Err(Failure::new("no cartridge was read: there is no written one here"));
    }
    let bad = all.iter().filter(|one| !one.is_well()).count();
    match bad {
        0 if absent.is_empty() => Ok(Ending::Done),
        0 => Ok(Ending::Gaps),
        _ => Err(Failure::new(format!("{bad} of {} cartridges are not whole", all.len())).hint(
            "what lies on another cartridge too is found there; `strongroom points` shows which \
             points another copy holds, and a point that is owed its aux copy is written again",
        )),
    }
}

/// Reads cartridges one after another; `reading` hears of each before.
pub(crate) fn read_all(
    shelf: &Shelf,
    barcodes: &[String],
    reading: &mut dyn FnMut(&str),
) -> Result<Vec<Read>, Failure> {
    let media = chosen(shelf.media(), barcodes)?;
    let each = media.iter().map(|medium| {
        reading(medium.barcode.as_str());
        read(shelf, medium)
    });
    Ok(each.collect())
}

/// Pure: those that were asked for; a barcode nobody knows, or that is elsewhere, is refused.
fn chosen(media: Vec<MediumInfo>, barcodes: &[String]) -> Result<Vec<MediumInfo>, Failure> {
    let here = |medium: &MediumInfo| medium.health != Health::Absent;
    if barcodes.is_empty() {
        return Ok(media.into_iter().filter(here).collect());
    }
    let known: Vec<String> = media.iter().map(|medium| medium.barcode.to_string()).collect();
    let one = |barcode: &String| {
        let found = media.iter().find(|medium| medium.barcode.to_string() == *barcode);
        match found {
            Some(medium) if here(medium) => Ok(medium.clone()),
            Some(_) => Err(Failure::new(format!("cartridge {barcode} is not in the library"))
                .hint("insert it and ask again")),
            None => Err(Failure::new(format!("no cartridge {barcode} is written or known here"))
                .hint(format!("known are: {}", known.join(" ")))),
        }
    };
    barcodes.iter().map(one).collect()
}

fn read(shelf: &Shelf, medium: &MediumInfo) -> Read {
    let (files, stopped) = match shelf.verify(medium.medium) {
        Ok(files) => (files, None),
        Err(error) => (Vec::new(), Some(strongroom_protocol::Chain(&error).to_string())),
    };
    let damaged = files.iter().filter_map(|file| {
        let what = match file.verdict {
            Verdict::Whole | Verdict::Unfinished => return None,
            Verdict::Damaged { block } => format!("block {block} cannot be read"),
            Verdict::Wrong => "it is not what was written".to_owned(),
        };
        Some(Damaged {
            file: file.file,
            kind: format!("{:?}", file.kind).to_lowercase(),
            what,
            pack: file.pack.map(|pack| pack.to_string()),
            also_on: file.pack.map_or_else(Vec::new, |pack| shelf.others(pack, medium.medium)),
        })
    });
    let unfinished = |file: &&FileReport| file.verdict == Verdict::Unfinished;
    Read {
        barcode: medium.barcode.to_string(),
        medium: medium.medium.to_string(),
        files: files.len(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        damaged: damaged.collect(),
        unfinished: files.iter().filter(unfinished).count(),
        stopped,
    }
}

fn table(all: &[Read], face: &Face) -> String {
    let columns = [
        ("CARTRIDGE", Align::Left),
        ("FILES", Align::Right),
        ("READ", Align::Right),
        ("FOUND", Align::Flow),
    ];
    let mut sheet = Sheet::new(&columns, "no written cartridges here", face);
    for one in all {
        sheet.row([
            one.barcode.clone(),
            human::count(u64::try_from(one.files).unwrap_or(u64::MAX)),
            human::bytes(one.bytes),
            found(one),
        ]);
    }
    sheet.finish()
}

/// Pure: in words.
fn found(one: &Read) -> String {
    if let Some(why) = &one.stopped {
        return format!("could not be read through: {why}");
    }
    let mut words: Vec<String> = one.damaged.iter().map(one_damaged).collect();
    if words.is_empty() {
        words.push("whole".to_owned());
    }
    if one.unfinished > 0 {
        words.push("a session broke off, nothing of it counted".to_owned());
    }
    words.join("; ")
}

fn one_damaged(damaged: &Damaged) -> String {
    let Damaged { file, kind, what, pack, also_on } = damaged;
    let pack = pack.as_ref().map_or_else(String::new, |pack| format!(" {pack}"));
    let also = match also_on.is_empty() {
        true => String::new(),
        false => format!(", also on {}", also_on.join(" ")),
    };
    format!("file {file} ({kind}{pack}): {what}{also}")
}
