//! Which parts of a disk were written since the last point, as the server's changed block
//! tracking tells. An answer that does not cover the whole disk is no answer.

use super::disks::Disk;
use super::session::{Reference, Session, SoapError};
use crate::workload::xml::{Element, escape};

/// Stretches of a disk, in bytes, in its order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Areas(Vec<(u64, u64)>);

impl Areas {
    /// Whether anything of this stretch was written.
    pub fn touch(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        let after = self.0.partition_point(|(from, bytes)| from + bytes <= offset);
        self.0.get(after).is_some_and(|(from, _)| *from < end)
    }
}

/// What was written to a disk between the change `since` and the snapshot.
///
/// # Errors
/// Why that is not known, in words that follow the disk's name.
pub fn changed(
    session: &Session,
    machine: &Reference,
    snapshot: &Reference,
    disk: &Disk,
    since: &str,
) -> Result<Areas, String> {
    let now = disk.change.as_deref().ok_or("its changes are not tracked")?;
    let epoch = |change: &str| change.split('/').next().unwrap_or_default().to_owned();
    if epoch(now) != epoch(since) {
        return Err("the tracking of its changes began anew since the last point".to_owned());
    }
    let (mut areas, mut at) = (Vec::new(), 0);
    while at < disk.bytes {
        let words = format!(
            "{}<deviceKey>{}</deviceKey><startOffset>{at}</startOffset><changeId>{}</changeId>",
            snapshot.element("snapshot"),
            disk.key,
            escape(since)
        );
        let answer = session.call("QueryChangedDiskAreas", machine, &words);
        let answer = answer.map_err(|error| match error {
            SoapError::Fault { kind, text, .. } => {
                format!("the server does not tell its changes: {text} ({kind})")
            }
            other => format!(
                "the server does not tell its changes: {}",
                strongroom_protocol::Chain(&other)
            ),
        })?;
        at = page(answer.child("returnval"), at, disk.bytes, &mut areas)?;
    }
    areas.sort_unstable();
    Ok(Areas(areas))
}

/// Reads a page of the answer that must begin at `at`; where the next begins.
fn page(
    told: Option<&Element>,
    at: u64,
    bytes: u64,
    areas: &mut Vec<(u64, u64)>,
) -> Result<u64, String> {
    let odd = || "what the server tells of its changes does not cover it".to_owned();
    let told = told.ok_or_else(odd)?;
    let number = |element: &Element, name: &str| element.number_at::<u64>(name).ok_or_else(odd);
    let (from, length) = (number(told, "startOffset")?, number(told, "length")?);
    let end = from.checked_add(length).filter(|end| *end <= bytes).ok_or_else(odd)?;
    if from != at || length == 0 {
        return Err(odd());
    }
    for area in told.all("changedArea") {
        let (start, length) = (number(area, "start")?, number(area, "length")?);
        let ends = start.checked_add(length).filter(|ends| *ends <= bytes).ok_or_else(odd)?;
        if start < from || start >= end || length == 0 {
            return Err(odd());
        }
        areas.push((start, ends - start));
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(from: u64, length: u64, areas: &[(u64, u64)]) -> Element {
        let areas: String = areas
            .iter()
            .map(|(from, length)| {
                format!("<changedArea><start>{from}</start><length>{length}</length></changedArea>")
            })
            .collect();
        let text =
            format!("<r><startOffset>{from}</startOffset><length>{length}</length>{areas}</r>");
        Element::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn pages_must_cover_the_disk_and_stay_on_it() {
        let mut areas = Vec::new();
        assert_eq!(page(Some(&told(0, 60, &[(10, 5)])), 0, 100, &mut areas), Ok(60));
        assert_eq!(page(Some(&told(60, 40, &[(90, 10)])), 60, 100, &mut areas), Ok(100));
        assert_eq!(areas, [(10, 5), (90, 10)]);
        for (at, wrong) in [
            (0, told(10, 90, &[])),
            (0, told(0, 0, &[])),
            (0, told(0, 101, &[])),
            (60, told(60, 40, &[(10, 5)])),
            (60, told(60, 40, &[(99, 2)])),
            (60, told(60, 40, &[(70, 0)])),
        ] {
            assert!(page(Some(&wrong), at, 100, &mut Vec::new()).is_err(), "{wrong:?}");
        }
        assert!(page(None, 0, 100, &mut Vec::new()).is_err());
    }

    #[test]
    fn a_stretch_is_touched_by_any_byte_of_it() {
        let areas = Areas(vec![(10, 5), (90, 10)]);
        let touched = |offset, length| areas.touch(offset, length);
        assert!(touched(0, 11) && touched(14, 1) && touched(0, 100) && touched(95, 1));
        assert!(!touched(0, 10) && !touched(15, 75) && !touched(100, 5));
    }
}
