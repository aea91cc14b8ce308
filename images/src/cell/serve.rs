//! The side that reads: it answers questions for as long as somebody asks them.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use crate::cached::Cached;
use crate::cell::survey::{Survey, System, look};
use crate::cell::talk::{
    BATCH_BYTES, EXTENDED_BYTES_MAX, FromCell, Question, READ_BYTES_MAX, Thing, ToCell, receive,
    send,
};
use crate::cell::walls;
use crate::system::{FileSystem, Kind, Named, NodeId, Problem};
use crate::volume::{Volume, VolumeError, within};

/// How the process ends when it comes upon a mistake of its own.
const BROKEN: i32 = 70;

/// Standard input, which is the socket: read from and written to.
struct Socket;

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), into)?)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stdin(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Becomes the process that reads an image: confines itself, and answers on standard input. To be
/// called before there is any other thread.
pub fn inhabit() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "a process that came to grief says no more")]
    std::panic::set_hook(Box::new(|_| std::process::exit(BROKEN)));
    let confined = walls::raise();
    let said = match &confined {
        Ok(()) => send(&mut Socket, &FromCell::Ready),
        Err(error) => {
            let why = std::error::Error::source(error)
                .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
            send(&mut Socket, &FromCell::Open { why })
        }
    };
    if confined.is_err() || said.is_err() {
        return ExitCode::FAILURE;
    }
    // Its end is that nobody asks any more.
    let _ = serve();
    ExitCode::SUCCESS
}

fn serve() -> io::Result<()> {
    let ToCell::Image { bytes } = receive(&mut Socket)? else { return Ok(()) };
    let disk: Arc<dyn Volume> = Arc::new(Cached::new(Arc::new(Elsewhere::new(bytes))));
    let mut room = Room { disk, survey: None, systems: Vec::new() };
    loop {
        let ToCell::Ask(question) = receive(&mut Socket)? else { return Ok(()) };
        let answer = match room.answer(&question) {
            Ok(answer) => answer,
            Err(Problem::Volume(error @ VolumeError::Read { .. })) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                FromCell::Unread { why: cause.unwrap_or_else(|| error.to_string()) }
            }
            Err(problem) => FromCell::Problem { why: problem.to_string() },
        };
        send(&mut Socket, &answer)?;
    }
}

/// The image, which the other side has.
struct Elsewhere {
    bytes: u64,
    turn: Mutex<()>,
}

impl Elsewhere {
    const fn new(bytes: u64) -> Self {
        Self { bytes, turn: Mutex::new(()) }
    }

    fn fetch(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = u32::try_from(into.len()).unwrap_or(u32::MAX);
        send(&mut Socket, &FromCell::Want { at, bytes })?;
        match receive(&mut Socket)? {
            ToCell::Bytes(found) if found.len() == into.len() => {
                into.copy_from_slice(&found);
                Ok(())
            }
            ToCell::Lost { why } => Err(io::Error::other(why)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl Volume for Elsewhere {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> Result<(), VolumeError> {
        within(at, into.len() as u64, self.bytes)?;
        for (part, step) in into.chunks_mut(READ_BYTES_MAX).zip(0_u64..) {
            let at = at + step * READ_BYTES_MAX as u64;
            self.fetch(at, part).map_err(|source| VolumeError::Read { at, source })?;
        }
        Ok(())
    }
}

/// What is known of the image.
struct Room {
    disk: Arc<dyn Volume>,
    survey: Option<Survey>,
    systems: Vec<System>,
}

impl Room {
    fn surveyed(&mut self) -> Result<&Survey, Problem> {
        if self.survey.is_none() {
            let (survey, systems) = look(&self.disk)?;
            self.systems = systems;
            self.survey = Some(survey);
        }
        self.survey.as_ref().ok_or_else(|| no_system(0))
    }

    fn system(&mut self, partition: u32) -> Result<&dyn FileSystem, Problem> {
        self.surveyed()?;
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        let system = self.systems.get(place).and_then(Option::as_deref);
        system.ok_or_else(|| no_system(partition))
    }

    fn answer(&mut self, question: &Question) -> Result<FromCell, Problem> {
        Ok(match *question {
            Question::Survey => FromCell::Survey(self.surveyed()?.clone()),
            Question::Attributes { partition, node } => {
                FromCell::Attributes(self.system(partition)?.attributes(node)?)
            }
            Question::Data { partition, node, at } => {
                FromCell::Data(self.system(partition)?.data(node, at)?)
            }
            Question::List { partition, node } => {
                list(self.system(partition)?, node)?;
                FromCell::Listed
            }
            Question::Read { partition, node, at, bytes } => {
                let wanted = usize::try_from(bytes).unwrap_or(usize::MAX).min(READ_BYTES_MAX);
                let mut into = vec![0; wanted];
                let read = self.system(partition)?.read(node, at, &mut into)?;
                into.truncate(read);
                FromCell::Read(into)
            }
        })
    }
}

fn no_system(partition: u32) -> Problem {
    Problem::Unread { feature: format!("place {partition} of the partition table") }
}

/// Sends the names of a directory, some at a time.
fn list(system: &dyn FileSystem, directory: NodeId) -> Result<(), Problem> {
    let batch: RefCell<(Vec<Thing>, usize)> = RefCell::default();
    let flush = || {
        let (things, _) = batch.take();
        things.is_empty() || send(&mut Socket, &FromCell::Things(things)).is_ok()
    };
    let listed = system.list(directory, &mut |named| {
        let thing = thing(system, named);
        let weight = thing.weight();
        if batch.borrow().1 + weight > BATCH_BYTES && !flush() {
            return false;
        }
        let mut batch = batch.borrow_mut();
        batch.0.push(thing);
        batch.1 += weight;
        true
    });
    flush();
    listed
}

fn thing(system: &dyn FileSystem, Named { name, node }: Named) -> Thing {
    let mut thing = Thing {
        name,
        node,
        attributes: system.attributes(node).map_err(|problem| problem.to_string()),
        target: Vec::new(),
        extended: Vec::new(),
        lacks: None,
    };
    let Ok(attributes) = &thing.attributes else { return thing };
    if attributes.kind == Kind::Symlink {
        match system.target(node) {
            Ok(target) => thing.target = target,
            Err(problem) => thing.attributes = Err(problem.to_string()),
        }
    }
    match system.extended(node) {
        Ok(extended) => {
            let bytes: usize = extended.iter().map(|(name, value)| name.len() + value.len()).sum();
            match bytes <= EXTENDED_BYTES_MAX {
                true => thing.extended = extended,
                false => thing.lacks = Some(format!("{bytes} bytes of extended attributes")),
            }
        }
        Err(problem) => thing.lacks = Some(format!("extended attributes: {problem}")),
    }
    thing
}
