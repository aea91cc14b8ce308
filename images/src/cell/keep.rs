//! The side that asks. It starts the process, answers what that wants of the image, and believes
//! nothing: an answer of another kind, too long, or not in time ends the process. The next
//! question has a fresh one, a bounded number of times.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cell::survey::Survey;
use crate::cell::talk::{FromCell, Question, READ_BYTES_MAX, Thing, ToCell, receive, send};
use crate::system::{Attributes, NodeId};
use crate::volume::Volume;

/// What the process may take for one question, what it waits for us not counted: a journal of a
/// gigabyte is read in less.
const TIME_MAX: Duration = Duration::from_secs(120);
/// What one question may want of the image, in bytes; each time counts as a page at least.
const WANTED_BYTES_MAX: u64 = 64 << 30;
const WANTED_BYTES_LEAST: u64 = 4096;
/// Names of one directory: what they say is held in memory.
const NAMES_MAX: usize = 1 << 20;
/// Bytes of what names of one directory say.
const NAMES_BYTES_MAX: usize = 512 << 20;
/// Processes that may come to an end while one image is read.
const ENDS_MAX: u32 = 64;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CellError {
    /// It cannot be confined: then nothing is read.
    #[error("images are read by a confined process alone, and none can be had here: {why}")]
    Confine { why: String },
    /// It came to an end, and whatever made it is in the image.
    #[error("the process that reads the image ended while it was asked for {question}: {how}")]
    Ended { question: &'static str, how: String },
    /// It said something else than an answer.
    #[error("the process that reads the image gave no answer when it was asked for {question}")]
    Nonsense { question: &'static str },
    /// It was not done in time, or wanted more than it may.
    #[error("{question} took more than {limit}")]
    Limit { question: &'static str, limit: String },
    /// What lies there is damaged or not read.
    #[error("{why}")]
    Problem { why: String },
    /// The bytes of the image cannot be had.
    #[error("bytes of the image cannot be had: {why}")]
    Unread { why: String },
    /// It cannot be started.
    #[error("the process that reads the image cannot be started")]
    Start(#[source] io::Error),
}

/// The names of a directory, and what could not be read of it.
#[derive(Debug, Default)]
pub struct Listing {
    pub things: Vec<Thing>,
    pub problem: Option<CellError>,
}

/// An image and the process that reads it. Any number of threads may ask; they wait for one
/// another.
pub struct Cell {
    image: Arc<dyn Volume>,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    state: Mutex<(Option<Running>, u32)>,
}

struct Running {
    process: Child,
    socket: UnixStream,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Question {
    const fn name(&self) -> &'static str {
        match self {
            Self::Survey => "the partitions",
            Self::Attributes { .. } => "attributes",
            Self::Data { .. } => "where a file has data",
            Self::List { .. } => "the names in a directory",
            Self::Read { .. } => "bytes of a file",
        }
    }
}

impl Cell {
    /// An image; `command` makes what becomes [`crate::cell::inhabit`]. Nothing is started yet.
    pub fn new(
        image: Arc<dyn Volume>,
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Self {
        Self { image, command: Box::new(command), state: Mutex::default() }
    }

    /// The process that reads at present, for who wants to look at it.
    pub fn process(&self) -> Option<u32> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0.as_ref().map(|running| running.process.id())
    }

    /// What lies on the disk.
    ///
    /// # Errors
    ///
    /// [`CellError`]
    pub fn survey(&self) -> Result<Survey, CellError> {
        let mut found = None;
        self.ask(Question::Survey, &mut |answer| match answer {
            FromCell::Survey(survey) => {
                found = Some(survey);
                Heard::All
            }
            _ => Heard::Nonsense,
        })?;
        found.ok_or(CellError::Nonsense { question: Question::Survey.name() })
    }

    /// What is said of a node of the partition in this place of the survey.
    ///
    /// # Errors
    ///
    /// [`CellError`]
    pub fn attributes(&self, partition: u32, node: NodeId) -> Result<Attributes, CellError> {
        let (mut found, question) = (None, Question::Attributes { partition, node });
        let name = question.name();
        self.ask(question, &mut |answer| match answer {
            FromCell::Attributes(attributes) => {
                found = Some(attributes);
                Heard::All
            }
            _ => Heard::Nonsense,
        })?;
        found.ok_or(CellError::Nonsense { question: name })
    }

    /// The names of a directory, as many as can be read.
    ///
    /// # Errors
    ///
    /// [`CellError`] where none can; else what could not be read is in the [`Listing`].
    pub fn list(&self, partition: u32, node: NodeId) -> Result<Listing, CellError> {
        let (mut listing, mut bytes) = (Listing::default(), 0);
        let listed = self.ask(Question::List { partition, node }, &mut |answer| match answer {
            FromCell::Things(things) => {
                bytes += things.iter().map(Thing::weight).sum::<usize>();
                listing.things.extend(things);
                let fits = listing.things.len() <= NAMES_MAX && bytes <= NAMES_BYTES_MAX;
                if fits { Heard::More } else { Heard::Enough }
            }
            FromCell::Listed => Heard::All,
            _ => Heard::Nonsense,
        });
        match listed {
            Err(error) if listing.things.is_empty() => Err(error),
            Err(error) => {
                listing.problem = Some(error);
                Ok(listing)
            }
            Ok(()) => Ok(listing),
        }
    }

    /// The next stretch of a file, within `size` bytes, that may hold something.
    ///
    /// # Errors
    ///
    /// [`CellError`]
    pub fn data(
        &self,
        partition: u32,
        node: NodeId,
        at: u64,
    ) -> Result<Option<Range<u64>>, CellError> {
        let (mut found, question) = (None, Question::Data { partition, node, at });
        let name = question.name();
        self.ask(question, &mut |answer| match answer {
            FromCell::Data(range) => {
                found = Some(range);
                Heard::All
            }
            _ => Heard::Nonsense,
        })?;
        match found {
            Some(Some(range)) if range.start < at || range.end <= range.start => {
                Err(CellError::Nonsense { question: name })
            }
            Some(range) => Ok(range),
            None => Err(CellError::Nonsense { question: name }),
        }
    }

    /// Bytes of a file; fewer than asked for where it ends.
    ///
    /// # Errors
    ///
    /// [`CellError`]
    pub fn read(
        &self,
        partition: u32,
        node: NodeId,
        at: u64,
        bytes: usize,
    ) -> Result<Vec<u8>, CellError> {
        let mut out: Vec<u8> = Vec::with_capacity(bytes);
        while out.len() < bytes {
            let wanted = (bytes - out.len()).min(READ_BYTES_MAX);
            let (at, short) = (at + out.len() as u64, u32::try_from(wanted).unwrap_or(0));
            let (mut read, question) = (0, Question::Read { partition, node, at, bytes: short });
            self.ask(question, &mut |answer| match answer {
                FromCell::Read(found) if found.len() <= wanted => {
                    read = found.len();
                    out.extend_from_slice(&found);
                    Heard::All
                }
                _ => Heard::Nonsense,
            })?;
            if read == 0 {
                break;
            }
        }
        Ok(out)
    }

    fn ask(
        &self,
        question: Question,
        hear: &mut dyn FnMut(FromCell) -> Heard,
    ) -> Result<(), CellError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (running, ends) = &mut *state;
        let name = question.name();
        let mut one = match running.take() {
            Some(one) => one,
            None if *ends >= ENDS_MAX => {
                let how = format!("as did {ENDS_MAX} before it");
                return Err(CellError::Ended { question: name, how });
            }
            None => self.start()?,
        };
        match one.converse(question, &*self.image, hear) {
            Ok(answered) => {
                *running = Some(one);
                answered
            }
            Err(broken) => {
                *ends += 1;
                Err(broken)
            }
        }
    }

    fn start(&self) -> Result<Running, CellError> {
        let (socket, theirs) = UnixStream::pair().map_err(CellError::Start)?;
        let mut command = (self.command)();
        command.env_clear().current_dir("/").stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().map_err(CellError::Start)?;
        // The command holds the other end: while it does, nobody is told of an end there.
        drop(command);
        let mut running = Running { process, socket };
        let question = "whether it is confined";
        running.socket.set_read_timeout(Some(TIME_MAX)).map_err(CellError::Start)?;
        running.socket.set_write_timeout(Some(TIME_MAX)).map_err(CellError::Start)?;
        match receive(&mut running.socket) {
            Ok(FromCell::Ready) => {}
            Ok(FromCell::Open { why }) => return Err(CellError::Confine { why }),
            Ok(_) => return Err(CellError::Nonsense { question }),
            Err(error) => return Err(running.ended(question, &error)),
        }
        let image = ToCell::Image { bytes: self.image.bytes() };
        send(&mut running.socket, &image).map_err(|error| running.ended(question, &error))?;
        Ok(running)
    }
}

/// What was made of an answer.
enum Heard {
    All,
    /// More than is taken.
    Enough,
    More,
    Nonsense,
}

impl Running {
    /// Asks, and answers what is wanted meanwhile. The outer error ends the process.
    fn converse(
        &mut self,
        question: Question,
        image: &dyn Volume,
        hear: &mut dyn FnMut(FromCell) -> Heard,
    ) -> Result<Result<(), CellError>, CellError> {
        let name = question.name();
        let (mut taken, mut wanted) = (Duration::ZERO, 0_u64);
        let asked = send(&mut self.socket, &ToCell::Ask(question));
        asked.map_err(|error| self.ended(name, &error))?;
        loop {
            let left = TIME_MAX.saturating_sub(taken);
            let limit = || format!("{} seconds", TIME_MAX.as_secs());
            if left.is_zero() {
                return Err(CellError::Limit { question: name, limit: limit() });
            }
            let set = self.socket.set_read_timeout(Some(left));
            set.map_err(|error| self.ended(name, &error))?;
            let begun = Instant::now();
            let answer = receive(&mut self.socket).map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    CellError::Limit { question: name, limit: limit() }
                }
                io::ErrorKind::InvalidData => CellError::Nonsense { question: name },
                _ => self.ended(name, &error),
            })?;
            taken += begun.elapsed();
            match answer {
                FromCell::Want { at, bytes } => {
                    wanted = wanted.saturating_add(u64::from(bytes).max(WANTED_BYTES_LEAST));
                    if wanted > WANTED_BYTES_MAX {
                        let limit = format!("{WANTED_BYTES_MAX} bytes of the image");
                        return Err(CellError::Limit { question: name, limit });
                    }
                    self.give(name, image, at, bytes)?;
                }
                FromCell::Problem { why } => return Ok(Err(CellError::Problem { why })),
                FromCell::Unread { why } => return Ok(Err(CellError::Unread { why })),
                answer => match hear(answer) {
                    Heard::All => return Ok(Ok(())),
                    Heard::More => {}
                    Heard::Enough => {
                        let limit = format!("{NAMES_MAX} names");
                        return Err(CellError::Limit { question: name, limit });
                    }
                    Heard::Nonsense => return Err(CellError::Nonsense { question: name }),
                },
            }
        }
    }

    fn give(
        &mut self,
        question: &'static str,
        image: &dyn Volume,
        at: u64,
        bytes: u32,
    ) -> Result<(), CellError> {
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if length > READ_BYTES_MAX {
            return Err(CellError::Nonsense { question });
        }
        let mut into = vec![0; length];
        let answer = match image.read_at(at, &mut into) {
            Ok(()) => ToCell::Bytes(into),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                ToCell::Lost { why: cause.unwrap_or_else(|| error.to_string()) }
            }
        };
        send(&mut self.socket, &answer).map_err(|error| self.ended(question, &error))
    }

    /// How it came to its end.
    fn ended(&mut self, question: &'static str, error: &io::Error) -> CellError {
        // Closing the socket may come before the end itself.
        let _ = self.process.kill();
        let how = match self.process.wait() {
            Ok(status) => match status.signal() {
                Some(libc::SIGKILL) => error.to_string(),
                Some(libc::SIGSYS) => "it did what it may not do".to_owned(),
                Some(signal) => format!("by signal {signal}"),
                None => format!("with exit code {}", status.code().unwrap_or(-1)),
            },
            Err(_) => error.to_string(),
        };
        CellError::Ended { question, how }
    }
}
