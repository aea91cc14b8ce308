//! Where pages and lists end: within the weights allowed, after the member whose rank is
//! smallest (the leftmost of equals). Promises that the choice depends on the members
//! near it alone, so that a change moves only the ends around it, whatever its size.

use std::collections::VecDeque;

/// Members not yet cut into a page.
pub(crate) struct Window<T> {
    members: VecDeque<Member<T>>,
    weight: usize,
    weight_min: usize,
    weight_max: usize,
}

struct Member<T> {
    value: T,
    weight: usize,
    rank: u64,
}

impl<T> Window<T> {
    pub(crate) const fn new(weight_min: usize, weight_max: usize) -> Self {
        Self { members: VecDeque::new(), weight: 0, weight_min, weight_max }
    }

    pub(crate) fn push(&mut self, value: T, weight: usize, rank: u64) {
        self.weight += weight;
        self.members.push_back(Member { value, weight, rank });
    }

    /// The next page, once so much lies here that its end is certain.
    pub(crate) fn cut(&mut self) -> Option<Vec<T>> {
        if self.weight <= self.weight_max {
            return None;
        }
        let mut sum = 0;
        let mut best: Option<(usize, u64)> = None;
        for (at, member) in self.members.iter().enumerate() {
            sum += member.weight;
            if sum < self.weight_min {
                continue;
            }
            // A member heavier than a page ends one by itself.
            if sum > self.weight_max && best.is_some() {
                break;
            }
            if best.is_none_or(|(_, rank)| member.rank < rank) {
                best = Some((at, member.rank));
            }
        }
        let count = best.map_or(self.members.len(), |(at, _)| at + 1);
        Some(self.take(count))
    }

    /// What is left: the last page.
    pub(crate) fn rest(&mut self) -> Vec<T> {
        self.take(self.members.len())
    }

    fn take(&mut self, count: usize) -> Vec<T> {
        let members = self.members.drain(..count);
        let mut values = Vec::with_capacity(count);
        for member in members {
            self.weight -= member.weight;
            values.push(member.value);
        }
        values
    }
}

/// The rank of a name.
pub(crate) fn rank_of(name: &[u8]) -> u64 {
    head_of(blake3::hash(name).as_bytes())
}

/// The first eight bytes of a digest as a number.
pub(crate) fn head_of(digest: &[u8; 32]) -> u64 {
    digest.first_chunk::<8>().map_or(u64::MAX, |head| u64::from_le_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(ranks: &[(usize, u64)]) -> Vec<usize> {
        let mut window = Window::new(3, 6);
        let mut lengths = Vec::new();
        for (weight, rank) in ranks {
            window.push((), *weight, *rank);
            while let Some(page) = window.cut() {
                lengths.push(page.len());
            }
        }
        lengths.push(window.rest().len());
        lengths
    }

    #[test]
    fn the_smallest_rank_within_the_weights_ends_a_page() {
        let ranks = [9, 0, 5, 4, 7, 4, 0, 8].map(|rank| (1, rank));
        // Members 3 to 6 are allowed to end the first page; 4 comes first at the fourth.
        assert_eq!(cuts(&ranks), [4, 4]);
        assert_eq!(cuts(&ranks[..6]), [6]);
    }

    #[test]
    fn a_member_heavier_than_a_page_ends_one() {
        assert_eq!(cuts(&[(1, 1), (90, 9), (1, 1), (2, 5), (4, 7)]), [2, 2, 1]);
        assert_eq!(cuts(&[(90, 9)]), [1, 0]);
    }
}
