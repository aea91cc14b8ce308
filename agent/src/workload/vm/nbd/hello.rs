//! The beginning of a connection: fixed newstyle, structured replies, contexts, one export.
//! Promises to end after a bounded number of bounded answers.

use std::io::{Read, Write};

use super::{NbdError, broken};

const MAGIC: u64 = 0x4e42_444d_4147_4943;
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const FIXED_NEWSTYLE: u16 = 1;
const NO_ZEROES: u16 = 2;
const STRUCTURED_REPLY: u32 = 8;
const SET_META_CONTEXT: u32 = 10;
const GO: u32 = 7;
const ACK: u32 = 1;
const INFO: u32 = 3;
const META_CONTEXT: u32 = 4;
const FAILED: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;

/// Longest answer to an option, in bytes.
const ANSWER_BYTES_MAX: u32 = 64 << 10;
/// Most answers to one option.
const ANSWERS_MAX: usize = 64;

/// What was agreed on.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) size: u64,
    pub(super) contexts: Vec<u32>,
}

pub(super) fn agree(
    stream: &mut (impl Read + Write),
    export: &str,
    contexts: &[&str],
) -> Result<Agreed, NbdError> {
    if take_u64(stream)? != MAGIC || take_u64(stream)? != OPTION_MAGIC {
        return Err(broken("no greeting of a block device"));
    }
    let flags = take_u16(stream)?;
    if flags & FIXED_NEWSTYLE == 0 {
        return Err(broken("a server of the old style"));
    }
    stream.write_all(&u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes())?;
    option(stream, STRUCTURED_REPLY, &[])?;
    answers(stream, STRUCTURED_REPLY, "structured replies", |_, _| Ok(()))?;
    let numbers = set_contexts(stream, export, contexts)?;
    let mut go = named(export);
    go.extend(0_u16.to_be_bytes());
    option(stream, GO, &go)?;
    let mut size = None;
    answers(stream, GO, "the export", |kind, answer| {
        let mut answer = answer;
        if kind == INFO && take_u16(&mut answer)? == INFO_EXPORT {
            size = Some(take_u64(&mut answer)?);
        }
        Ok(())
    })?;
    let size = size.ok_or_else(|| broken("an export without a size"))?;
    if i64::try_from(size).is_err() {
        return Err(broken("an export longer than any file"));
    }
    Ok(Agreed { size, contexts: numbers })
}

fn set_contexts(
    stream: &mut (impl Read + Write),
    export: &str,
    contexts: &[&str],
) -> Result<Vec<u32>, NbdError> {
    let mut order = named(export);
    order.extend(length(contexts.len()).to_be_bytes());
    contexts.iter().for_each(|context| order.extend(named(context)));
    option(stream, SET_META_CONTEXT, &order)?;
    let mut numbers: Vec<Option<u32>> = vec![None; contexts.len()];
    answers(stream, SET_META_CONTEXT, "to tell what lies where", |kind, answer| {
        let mut answer = answer;
        if kind == META_CONTEXT {
            let number = take_u32(&mut answer)?;
            let place = contexts.iter().position(|context| context.as_bytes() == answer);
            if let Some(slot) = place.and_then(|place| numbers.get_mut(place)) {
                *slot = Some(number);
            }
        }
        Ok(())
    })?;
    let all: Option<Vec<u32>> = numbers.into_iter().collect();
    all.ok_or_else(|| NbdError::Refused {
        what: "to tell what lies where",
        why: format!("it does not know all of {contexts:?}"),
    })
}

fn named(name: &str) -> Vec<u8> {
    let mut bytes = length(name.len()).to_be_bytes().to_vec();
    bytes.extend(name.bytes());
    bytes
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn option(stream: &mut impl Write, option: u32, data: &[u8]) -> Result<(), NbdError> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend(length(data.len()).to_be_bytes());
    bytes.extend(data);
    Ok(stream.write_all(&bytes)?)
}

/// Hands every answer to an option on, until it is acknowledged.
fn answers(
    stream: &mut impl Read,
    asked: u32,
    what: &'static str,
    mut take: impl FnMut(u32, &[u8]) -> Result<(), NbdError>,
) -> Result<(), NbdError> {
    for _ in 0..ANSWERS_MAX {
        if take_u64(stream)? != REPLY_MAGIC || take_u32(stream)? != asked {
            return Err(broken("an answer to an option not asked"));
        }
        let (kind, length) = (take_u32(stream)?, take_u32(stream)?);
        if length > ANSWER_BYTES_MAX {
            return Err(broken("an endless answer to an option"));
        }
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer)?;
        if kind == ACK {
            return Ok(());
        }
        if kind & FAILED != 0 {
            let why = String::from_utf8_lossy(&answer).into_owned();
            return Err(NbdError::Refused { what, why });
        }
        take(kind, &answer)?;
    }
    Err(broken("endless answers to an option"))
}

pub(super) fn take_u16(stream: &mut impl Read) -> Result<u16, NbdError> {
    let mut bytes = [0; 2];
    stream.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

pub(super) fn take_u32(stream: &mut impl Read) -> Result<u32, NbdError> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

pub(super) fn take_u64(stream: &mut impl Read) -> Result<u64, NbdError> {
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
