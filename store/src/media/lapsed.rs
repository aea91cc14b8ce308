//! Which media of a set nothing needs any more. Pure. A medium may be written anew when something
//! that has lapsed lies on it and nothing that is kept needs it. Refuses to guess: one kept point
//! of which is not known what it needs keeps every medium of its set, and only what was told by a
//! medium's own label and catalog counts.

use std::collections::{BTreeMap, BTreeSet};

use strongroom_protocol::{MediumId, PointId};

use crate::media::read::MediaReader;
use crate::media::survey::{Health, Medium};

/// What of a set has lapsed, and what the rest of it needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lapsed {
    /// Points that no reason keeps on this set any more.
    pub points: BTreeSet<PointId>,
    /// On which media the points of this set lie, with all that they need.
    pub needs: BTreeMap<PointId, BTreeSet<MediumId>>,
    /// Points of this set besides: on cartridges that are away.
    pub away: BTreeSet<PointId>,
}

/// A medium of the set, as far as it matters here.
struct Seen {
    medium: MediumId,
    is_sound: bool,
    points: BTreeSet<PointId>,
}

impl Lapsed {
    /// The media that may be written anew, of all media of a set.
    fn of(&self, media: &[Seen]) -> BTreeSet<MediumId> {
        let on_media = media.iter().flat_map(|seen| &seen.points);
        let all = on_media.chain(&self.away).chain(self.needs.keys());
        let kept: BTreeSet<PointId> =
            all.filter(|point| !self.points.contains(point)).copied().collect();
        let mut needed: BTreeSet<MediumId> = BTreeSet::new();
        for point in &kept {
            let Some(media) = self.needs.get(point) else { return BTreeSet::new() };
            needed.extend(media);
        }
        let may_go = |seen: &&Seen| {
            let lapsed = |point: &PointId| {
                let needs = self.needs.get(point);
                seen.points.contains(point) || needs.is_some_and(|of| of.contains(&seen.medium))
            };
            seen.is_sound
                && !needed.contains(&seen.medium)
                && seen.points.is_disjoint(&kept)
                && self.points.iter().any(lapsed)
        };
        media.iter().filter(may_go).map(|seen| seen.medium).collect()
    }

    pub(crate) fn of_survey<'m>(
        &self,
        media: impl Iterator<Item = &'m Medium>,
    ) -> BTreeSet<MediumId> {
        let seen = media.map(|medium| Seen {
            medium: medium.label.medium,
            is_sound: is_sound(medium.health),
            points: medium.points(),
        });
        self.of(&seen.collect::<Vec<_>>())
    }

    /// The same of a set as it was read; of a medium that is away, by what others say of it.
    pub fn media(
        &self,
        reader: &MediaReader,
        is_of_set: impl Fn(&super::MediumInfo) -> bool,
    ) -> BTreeSet<MediumId> {
        let held = reader.held();
        let seen = reader.media().into_iter().filter(is_of_set).map(|info| {
            let on_it = held
                .points
                .iter()
                .filter(|(_, held)| held.places.iter().any(|place| place.medium == info.medium));
            Seen {
                medium: info.medium,
                is_sound: is_sound(info.health) || info.health == Health::Absent,
                points: on_it.map(|(point, _)| *point).collect(),
            }
        });
        self.of(&seen.collect::<Vec<_>>())
    }
}

const fn is_sound(health: Health) -> bool {
    matches!(health, Health::Sound | Health::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn medium(n: u8) -> MediumId {
        MediumId::from_bytes([n; 16])
    }

    const fn point(n: u8) -> PointId {
        PointId::from_bytes([n; 16])
    }

    fn seen(n: u8, points: &[u8]) -> Seen {
        let points = points.iter().copied().map(point).collect();
        Seen { medium: medium(n), is_sound: true, points }
    }

    /// `needs`: of each point, its media.
    fn lapsed(points: &[u8], needs: &[(u8, &[u8])]) -> Lapsed {
        let of = |media: &[u8]| media.iter().copied().map(medium).collect();
        Lapsed {
            points: points.iter().copied().map(point).collect(),
            needs: needs.iter().map(|(n, media)| (point(*n), of(media))).collect(),
            away: BTreeSet::new(),
        }
    }

    fn free(lapsed: &Lapsed, media: &[Seen]) -> Vec<MediumId> {
        lapsed.of(media).into_iter().collect()
    }

    #[test]
    fn a_medium_goes_only_when_nothing_that_is_kept_needs_it() {
        // Point 1 begins on medium 1 and ends on 2, where 2 is too; 3 uses what lies on 1.
        let media = [seen(1, &[]), seen(2, &[1, 2]), seen(3, &[3])];
        let needs: [(u8, &[u8]); 3] = [(1, &[1, 2]), (2, &[2]), (3, &[1, 3])];
        for (gone, expected) in [
            (&[][..], &[][..]),
            (&[1], &[]),
            (&[1, 2], &[2]),
            (&[1, 3], &[1, 3]),
            (&[3], &[3]),
            (&[1, 2, 3], &[1, 2, 3]),
        ] {
            let expected: Vec<MediumId> = expected.iter().copied().map(medium).collect();
            assert_eq!(free(&lapsed(gone, &needs), &media), expected, "{gone:?}");
        }
    }

    #[test]
    fn what_is_not_known_keeps_everything() {
        let media = [seen(1, &[1]), seen(2, &[2])];
        let known = lapsed(&[1], &[(1, &[1]), (2, &[2])]);
        assert_eq!(free(&known, &media), [medium(1)]);
        // What point 2 needs is not known.
        assert!(free(&lapsed(&[1], &[(1, &[1])]), &media).is_empty());
        // A cartridge that is away holds a point of the set.
        let away = Lapsed { away: BTreeSet::from([point(9)]), ..known.clone() };
        assert!(free(&away, &media).is_empty());
        // It was read as something else than whole.
        let damaged = [Seen { is_sound: false, ..seen(1, &[1]) }, seen(2, &[2])];
        assert!(free(&known, &damaged).is_empty());
        // Nothing of what has lapsed ever was on it.
        assert_eq!(free(&known, &[seen(1, &[1]), seen(2, &[2]), seen(3, &[])]), [medium(1)]);
    }
}
