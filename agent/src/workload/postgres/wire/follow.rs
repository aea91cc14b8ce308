//! The log of a server, streamed: segment by segment, over every timeline between two places.
//! Promises that no byte is missing in between; never tells the server that anything is kept,
//! for that is only so once the point is durable.

use std::io::{self, Read};

use strongroom_store::content::{Entry, Meta};

use crate::workload::compose::Composer;
use crate::workload::files::ProtectError;
use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::{Lsn, Segment, history_name, numbers};
use crate::workload::postgres::session::{Dial, Server};
use crate::workload::postgres::wire::link::WireError;
use crate::workload::postgres::wire::talk::{Logged, Talk};
use crate::workload::postgres::wire::{application, is_of};

/// A stretch of a server's log, to be streamed.
#[derive(Clone, Debug)]
pub(in crate::workload::postgres) struct Course {
    pub(in crate::workload::postgres) slot: String,
    /// The beginning of a segment.
    pub(in crate::workload::postgres) from: Lsn,
    pub(in crate::workload::postgres) until: Lsn,
}

/// A part of a stretch on one timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Leg {
    timeline: u32,
    from: Lsn,
    until: Lsn,
}

/// Streams a stretch: its segments and the histories of its timelines as files of a point, and
/// their names.
///
/// # Errors
/// The server does not give it whole; or the sink takes nothing more.
pub(in crate::workload::postgres) fn entries(
    course: &Course,
    (dial, server): (&Dial, &Server),
    (composer, meta): (&Composer<'_>, &Meta),
) -> Result<(Vec<Entry>, Vec<String>), ProtectError> {
    let mut talk = Talk::open(dial).map_err(application)?;
    let system = talk.system_identifier().map_err(application)?;
    is_of(system, server, &dial.place()).map_err(application)?;
    let (mut entries, mut names) = (Vec::new(), Vec::new());
    let mut switches = Vec::new();
    for timeline in 2..=server.timeline {
        // Only the histories that the server itself still needs are there.
        let Some(history) = history(&mut talk, timeline).map_err(application)? else { continue };
        if timeline == server.timeline {
            switches = read_history(&String::from_utf8_lossy(&history));
        }
        let name = history_name(timeline);
        entries.push(composer.bytes(&name, meta.clone(), &history)?);
        names.push(name);
    }
    let stretch = (course.from, course.until);
    for leg in legs(&switches, server.timeline, stretch, server.segment_bytes) {
        talk.begin_log(&course.slot, (leg.from, leg.timeline)).map_err(application)?;
        let mut log = Log { talk: &mut talk, piece: None, at: leg.from, fault: None };
        for number in numbers(leg.from, leg.until, server.segment_bytes) {
            let segment = Segment { number, timeline: leg.timeline };
            let name = segment.name(server.segment_bytes);
            let end = Lsn(segment.start(server.segment_bytes).0 + server.segment_bytes);
            let rest = end.0.saturating_sub(leg.until.0).min(server.segment_bytes);
            let source = Until { log: &mut log, until: end.min(leg.until) };
            let mut source = source.chain(io::repeat(0).take(rest));
            let made = composer.stream(&name, meta.clone(), &mut source, server.segment_bytes);
            match (made, log.fault.take()) {
                (Err(_), Some(fault)) => return Err(application(fault)),
                (made, _) => entries.push(made?),
            }
            names.push(name);
        }
        talk.end_log().map_err(application)?;
    }
    Ok((entries, names))
}

/// The history of a timeline; none where the server does not have it.
fn history(talk: &mut Talk, timeline: u32) -> Result<Option<Vec<u8>>, WireError> {
    let command = format!("TIMELINE_HISTORY {timeline}");
    match talk.ask("give the history of a timeline", &command) {
        Ok(rows) => Ok(rows.first().and_then(|row| row.bytes(1)).map(<[u8]>::to_vec)),
        Err(WireError::Refused { said, .. }) => {
            tracing::debug!(timeline, said, "the server has no history of a timeline");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Where timelines ended, oldest first: their numbers and the places.
fn read_history(text: &str) -> Vec<(u32, Lsn)> {
    let switch = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    };
    text.lines().filter_map(switch).collect()
}

/// Pure: on which timelines a stretch lies. The first segment of a timeline begins before it, as
/// a copy of the end of the last one.
fn legs(
    switches: &[(u32, Lsn)],
    current: u32,
    (from, until): (Lsn, Lsn),
    segment_bytes: u64,
) -> Vec<Leg> {
    let (mut legs, mut at) = (Vec::new(), from);
    if until <= from {
        return legs;
    }
    for (timeline, end) in switches {
        if *end <= at {
            continue;
        }
        legs.push(Leg { timeline: *timeline, from: at, until: until.min(*end) });
        if until <= *end {
            return legs;
        }
        at = Lsn(end.0 - end.0 % segment_bytes.max(1));
    }
    legs.push(Leg { timeline: current, from: at, until });
    legs
}

/// The log of one timeline as it comes.
struct Log<'talk> {
    talk: &'talk mut Talk,
    /// What came last, and how much of it is used.
    piece: Option<(Logged, usize)>,
    at: Lsn,
    /// Why it did not go on.
    fault: Option<PgError>,
}

impl Log<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, PgError> {
        loop {
            if let Some((piece, used)) = &mut self.piece {
                let mut rest = piece.bytes().get(*used..).unwrap_or_default();
                let got = rest.read(buffer).unwrap_or_default();
                if got > 0 {
                    *used += got;
                    self.at = Lsn(self.at.0 + got as u64);
                    return Ok(got);
                }
            }
            let place = self.at;
            let Some(piece) = self.talk.logged()? else {
                return Err(self.talk.odd(format!("that its log ends at {place}")).into());
            };
            if piece.at != place {
                let what = format!("log from {} on, where {place} was to come", piece.at);
                return Err(self.talk.odd(what).into());
            }
            self.piece = Some((piece, 0));
        }
    }
}

/// A log up to a place.
struct Until<'log, 'talk> {
    log: &'log mut Log<'talk>,
    until: Lsn,
}

impl Read for Until<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.until.0.saturating_sub(self.log.at.0);
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let got = self.log.read(buffer.get_mut(..most).unwrap_or_default());
        got.map_err(|fault| {
            self.log.fault = Some(fault);
            io::ErrorKind::UnexpectedEof.into()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    fn at(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn leg(timeline: u32, from: &str, until: &str) -> Leg {
        Leg { timeline, from: at(from), until: at(until) }
    }

    #[test]
    fn a_stretch_lies_on_the_timelines_it_crosses() {
        let history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore it\n";
        let switches = read_history(history);
        assert_eq!(switches, [(1, at("0/3000148")), (2, at("0/5000000"))]);
        let legs = |from: &str, until: &str| legs(&switches, 3, (at(from), at(until)), SEGMENT);
        assert_eq!(legs("0/5000000", "0/5000100"), [leg(3, "0/5000000", "0/5000100")]);
        assert_eq!(
            legs("0/2000000", "0/5000100"),
            [
                leg(1, "0/2000000", "0/3000148"),
                leg(2, "0/3000000", "0/5000000"),
                leg(3, "0/5000000", "0/5000100"),
            ]
        );
        assert_eq!(legs("0/2000000", "0/3000100"), [leg(1, "0/2000000", "0/3000100")]);
        assert_eq!(
            legs("0/3000000", "0/4000000"),
            [leg(1, "0/3000000", "0/3000148"), leg(2, "0/3000000", "0/4000000")]
        );
        assert_eq!(legs("0/4000000", "0/4000000"), []);
        assert_eq!(super::legs(&[], 1, (at("0/1"), at("0/2")), SEGMENT).len(), 1);
    }
}
