//! Pages and lists of a walk in tree order, asked for before they are wanted: a page that has
//! come says what comes after it. Without this a far link is waited for once a directory.
//! Promises bounded memory, and that what is not foreseen is asked for as without it.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use strongroom_protocol::ChunkId;
use strongroom_protocol::blob::Reference;
use tokio::sync::oneshot;

use super::stream::Answer;

/// Pages of each level of the tree asked for and not yet taken: with pages of a few KiB some MiB
/// in all, and on a link of 150 ms 1700 directories a second.
const LEVEL_HELD_MAX: usize = 256;
/// Compressed bytes of pages that are here, from which on no more are asked for.
const HELD_BYTES_MAX: usize = 6 << 20;
/// Pages of each level known and not asked for, at some 80 bytes each.
const LEVEL_KNOWN_MAX: usize = 32_768;
/// Takes between two looks at what has come, where nothing is waited for.
const TAKES_A_LOOK: usize = 16;

/// Where in the tree something is named: which reference of which of the root, and so on. In
/// this order a walk comes by.
type Path = Box<[u32]>;

enum Held {
    Coming(oneshot::Receiver<Answer>),
    Here(Answer),
}

#[derive(Default)]
struct Level {
    known: BTreeMap<Path, ChunkId>,
    held: BTreeMap<Path, (ChunkId, Held)>,
}

/// What is known of the rest of a walk.
#[derive(Default)]
pub(super) struct Ahead {
    levels: Vec<Level>,
    paths: HashMap<ChunkId, Path>,
    held_bytes: usize,
    takes: usize,
}

/// What a walk wants next.
pub(super) enum Taken {
    /// It was asked for, and is awaited, with the lock let go of.
    Coming(oneshot::Receiver<Answer>),
    Here(Answer),
}

impl Ahead {
    /// Takes what the walk wants now; `ask` asks the far end. With it, where in the tree it is.
    pub(super) fn take(
        &mut self,
        id: ChunkId,
        ask: &mut dyn FnMut(ChunkId) -> oneshot::Receiver<Answer>,
    ) -> (Taken, Option<Path>) {
        self.takes += 1;
        let path = self.paths.remove(&id);
        let Some(path) = path else {
            // The first of all is the root; what comes unforeseen later has no known place.
            let root = (self.takes == 1).then(Path::default);
            return (Taken::Coming(ask(id)), root);
        };
        let level = self.levels.get_mut(path.len());
        let taken = match level.and_then(|level| level.held.remove(&path)) {
            Some((_, Held::Here(answer))) => {
                self.held_bytes -= bytes(&answer);
                Taken::Here(answer)
            }
            Some((_, Held::Coming(answer))) => Taken::Coming(answer),
            None => {
                if let Some(level) = self.levels.get_mut(path.len()) {
                    level.known.remove(&path);
                }
                Taken::Coming(ask(id))
            }
        };
        self.pass(&path);
        if self.takes.is_multiple_of(TAKES_A_LOOK) || matches!(taken, Taken::Coming(_)) {
            self.look();
        }
        self.ask_more(ask);
        (taken, Some(path))
    }

    /// What was taken has come and names these: they come next.
    pub(super) fn came(
        &mut self,
        path: &[u32],
        references: &[Reference],
        ask: &mut dyn FnMut(ChunkId) -> oneshot::Receiver<Answer>,
    ) {
        self.know(path, references);
        self.look();
        self.ask_more(ask);
    }

    fn know(&mut self, path: &[u32], references: &[Reference]) {
        let depth = path.len() + 1;
        while self.levels.len() <= depth {
            self.levels.push(Level::default());
        }
        let Some(level) = self.levels.get_mut(depth) else { return };
        let below = references.iter().filter(|reference| reference.kind.is_metadata());
        for (reference, number) in below.zip(0..) {
            if level.known.len() >= LEVEL_KNOWN_MAX {
                return;
            }
            // What is named twice is foreseen once.
            if let Entry::Vacant(place) = self.paths.entry(reference.id) {
                let path: Path = path.iter().copied().chain([number]).collect();
                level.known.insert(place.insert(path).clone(), reference.id);
            }
        }
    }

    /// Forgets what the walk has left behind without wanting it.
    fn pass(&mut self, path: &Path) {
        for level in &mut self.levels {
            while let Some(first) = level.known.first_entry().filter(|first| first.key() < path) {
                self.paths.remove(&first.remove());
            }
            while let Some(first) = level.held.first_entry().filter(|first| first.key() < path) {
                let (id, held) = first.remove();
                self.paths.remove(&id);
                if let Held::Here(answer) = held {
                    self.held_bytes -= bytes(&answer);
                }
            }
        }
    }

    /// Takes in what has come, and knows what it names.
    fn look(&mut self) {
        let mut came = Vec::new();
        for level in &mut self.levels {
            for (path, (_, held)) in &mut level.held {
                let Held::Coming(answer) = held else { continue };
                let Ok(answer) = answer.try_recv() else { continue };
                self.held_bytes += bytes(&answer);
                if let Ok(parcel) = &answer {
                    came.push((path.clone(), parcel.head.references.clone()));
                }
                *held = Held::Here(answer);
            }
        }
        came.iter().for_each(|(path, references)| self.know(path, references));
    }

    fn ask_more(&mut self, ask: &mut dyn FnMut(ChunkId) -> oneshot::Receiver<Answer>) {
        for level in &mut self.levels {
            while level.held.len() < LEVEL_HELD_MAX && self.held_bytes < HELD_BYTES_MAX {
                let Some((path, id)) = level.known.pop_first() else { break };
                level.held.insert(path, (id, Held::Coming(ask(id))));
            }
        }
    }
}

fn bytes(answer: &Answer) -> usize {
    answer.as_ref().map_or(0, |parcel| parcel.payload.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use strongroom_protocol::blob::{Algorithm, BlobKind, Parcel, ParcelHead};

    use super::*;

    fn id(path: &[u32]) -> ChunkId {
        let mut bytes = [0; 32];
        for (number, byte) in path.iter().zip(bytes.chunks_exact_mut(4)) {
            byte.copy_from_slice(&(number + 1).to_be_bytes());
        }
        ChunkId(bytes)
    }

    /// A page with so many below it on each level.
    fn page(path: &[u32], widths: &[u32]) -> Answer {
        let width = widths.get(path.len()).copied().unwrap_or(0);
        let below = |number| Reference {
            kind: BlobKind::Page,
            id: id(&path.iter().copied().chain([number]).collect::<Vec<_>>()),
        };
        let head = ParcelHead {
            id: id(path),
            kind: BlobKind::Page,
            algorithm: Algorithm::Stored,
            plain_len: 100,
            references: (0..width).map(below).collect(),
        };
        Ok(Parcel { head, payload: Bytes::from_static(&[0; 100]) })
    }

    /// A link whose answers come only when somebody waits: a wait is a round trip.
    struct Far {
        asked: Vec<(ChunkId, oneshot::Sender<Answer>)>,
        pages: HashMap<ChunkId, Answer>,
        questions: usize,
        round_trips: usize,
    }

    impl Far {
        fn ask(&mut self, id: ChunkId) -> oneshot::Receiver<Answer> {
            let (reply, answer) = oneshot::channel();
            self.asked.push((id, reply));
            self.questions += 1;
            answer
        }

        fn wait(&mut self) {
            self.round_trips += 1;
            for (id, reply) in self.asked.drain(..) {
                let _ = reply.send(self.pages[&id].clone());
            }
        }
    }

    fn walk(path: &[u32], skip: u32, ahead: &mut Ahead, far: &mut Far) {
        let (taken, place) = ahead.take(id(path), &mut |id| far.ask(id));
        let answer = match taken {
            Taken::Here(answer) => answer,
            Taken::Coming(mut coming) => coming.try_recv().unwrap_or_else(|_| {
                far.wait();
                coming.try_recv().unwrap()
            }),
        };
        let references = answer.unwrap().head.references;
        if let Some(place) = &place {
            ahead.came(place, &references, &mut |id| far.ask(id));
        }
        let width = u32::try_from(references.len()).unwrap();
        for number in (0..width).filter(|number| skip == 0 || number % skip == 0) {
            let below: Vec<u32> = path.iter().copied().chain([number]).collect();
            walk(&below, skip, ahead, far);
        }
    }

    fn far(widths: &[u32]) -> Far {
        let (mut pages, mut open) = (HashMap::new(), vec![vec![]]);
        while let Some(path) = open.pop() {
            pages.insert(id(&path), page(&path, widths));
            let width = widths.get(path.len()).copied().unwrap_or(0);
            open.extend((0..width).map(|number| [path.as_slice(), &[number]].concat()));
        }
        Far { asked: Vec::new(), pages, questions: 0, round_trips: 0 }
    }

    #[test]
    fn a_walk_waits_for_few_round_trips_and_asks_for_nothing_twice() {
        for widths in [&[5000][..], &[100, 50], &[10, 10, 10, 5], &[1, 1, 1, 1, 1000]] {
            let (mut far, mut ahead) = (far(widths), Ahead::default());
            walk(&[], 0, &mut ahead, &mut far);
            let pages = far.pages.len();
            assert_eq!(far.questions, pages, "{widths:?}");
            assert!(far.round_trips <= 8 + pages / 100, "{widths:?}: {}", far.round_trips);
            assert_eq!((ahead.held_bytes, ahead.paths.len()), (0, 0), "nothing is left over");
        }
    }

    #[test]
    fn what_the_walk_leaves_out_is_forgotten() {
        let (mut far, mut ahead) = (far(&[30, 30, 3]), Ahead::default());
        walk(&[], 3, &mut ahead, &mut far);
        let left = ahead.levels.iter().flat_map(|level| level.held.iter());
        let left: Vec<&Path> = left.map(|(path, _)| path).collect();
        assert!(left.iter().all(|path| path[..] > [27, 27][..]), "what lies behind is forgotten");
        assert!(ahead.held_bytes <= left.len() * 100);
    }
}
