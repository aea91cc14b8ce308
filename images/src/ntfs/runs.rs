//! Runs of clusters, packed as differences, and what a number of them holds.

use crate::raw::Raw;
use crate::system::Problem;

use super::boot::Boot;

/// A run of clusters of a value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) clusters: u64,
    /// The first cluster of the volume; none where nothing is kept.
    pub(super) place: Option<u64>,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.first + self.clusters
    }
}

/// Unpacks the runs from `first` to before `last`.
pub(super) fn unpack(
    boot: &Boot,
    pairs: &Raw<'_>,
    first: u64,
    last: u64,
) -> Result<Vec<Run>, Problem> {
    let (mut runs, mut offset, mut at, mut place) = (Vec::new(), 0, first, 0_i64);
    loop {
        let head = pairs.u8(offset)?;
        if head == 0 {
            break;
        }
        let (length_bytes, place_bytes) = (usize::from(head & 0xf), usize::from(head >> 4));
        let clusters = number(pairs, offset + 1, length_bytes)?;
        let step = number(pairs, offset + 1 + length_bytes, place_bytes)?;
        let wrong = |why: String| Err(pairs.damaged(offset, why));
        let Some(clusters) = u64::try_from(clusters).ok().filter(|clusters| *clusters > 0) else {
            return wrong(format!("a run of {clusters} clusters"));
        };
        let Some(end) = at.checked_add(clusters).filter(|end| *end <= last) else {
            return wrong(format!("runs of more than {last} clusters"));
        };
        let mut kept = None;
        if place_bytes > 0 {
            place = place.wrapping_add(step);
            let to = u64::try_from(place).ok().and_then(|from| from.checked_add(clusters));
            if to.is_none_or(|to| to > boot.clusters) {
                return wrong(format!("a run of {clusters} clusters in cluster {place}"));
            }
            kept = Some(place.unsigned_abs());
        }
        runs.push(Run { first: at, clusters, place: kept });
        at = end;
        offset += 1 + length_bytes + place_bytes;
    }
    if at != last {
        return Err(pairs.damaged(offset, format!("runs of {at} clusters where {last} should be")));
    }
    Ok(runs)
}

/// A number of up to eight bytes with its sign.
fn number(pairs: &Raw<'_>, offset: usize, length: usize) -> Result<i64, Problem> {
    if length > 8 {
        return Err(pairs.damaged(offset, format!("a number of {length} bytes")));
    }
    let bytes = pairs.take(offset, length)?;
    let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let mut whole = [fill; 8];
    for (into, from) in whole.iter_mut().zip(bytes) {
        *into = *from;
    }
    Ok(i64::from_le_bytes(whole))
}

/// The run that holds a cluster of the value, from runs in order.
pub(super) fn holding(runs: &[Run], cluster: u64) -> Option<Run> {
    let index = runs.partition_point(|run| run.end() <= cluster);
    runs.get(index).copied().filter(|run| run.first <= cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Boot =
        Boot { cluster_bytes: 4096, clusters: 1000, record_bytes: 1024, table: 4, mirror: 2 };

    fn unpacked(bytes: &[u8], last: u64) -> Result<Vec<Run>, Problem> {
        unpack(&BOOT, &Raw { what: "runs", at: 0, bytes }, 0, last)
    }

    #[test]
    fn runs_are_differences_with_a_sign() {
        let runs = unpacked(&[0x11, 8, 100, 0x01, 4, 0x11, 2, 0xf6, 0], 14).unwrap();
        let run = |first, clusters, place| Run { first, clusters, place };
        assert_eq!(runs, [run(0, 8, Some(100)), run(8, 4, None), run(12, 2, Some(90))]);
        assert_eq!(holding(&runs, 13), Some(runs[2]));
        assert_eq!(holding(&runs, 14), None);
    }

    #[test]
    fn runs_that_lie_are_refused() {
        assert!(unpacked(&[0x11, 8, 100, 0], 9).is_err());
        assert!(unpacked(&[0x11, 8, 100, 0], 7).is_err());
        assert!(unpacked(&[0x11, 8, 0xf6, 0], 8).is_err());
        assert!(unpacked(&[0x11, 0, 10, 0], 0).is_err());
        assert!(unpacked(&[0x21, 8, 0xe1, 0x03, 0], 8).is_err());
        assert!(unpacked(&[0x91, 8], 8).is_err());
        assert!(unpacked(&[0x11, 8, 100], 8).is_err());
    }
}
