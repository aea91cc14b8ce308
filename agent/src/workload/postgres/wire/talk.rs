//! A session of the replication protocol: commands and their answers, and the two streams, that
//! of a backup and that of the log. After an error of the server the session can be used again;
//! after any other it cannot.

use bytes::BytesMut;
use postgres_protocol::message::frontend;

use crate::workload::postgres::error::PgError;
use crate::workload::postgres::lsn::Lsn;
use crate::workload::postgres::session::Dial;
use crate::workload::postgres::wire::fields::{Row, Told};
use crate::workload::postgres::wire::link::{Link, Message, WireError};
use crate::workload::postgres::wire::login;

/// How a server says that pages do not fit their checksums.
const CORRUPTED: &str = "XX001";
/// Bytes before those of the log: a kind, two places and a time.
const LOG_HEAD_BYTES: usize = 25;
/// Where a message that only keeps alive says whether it wants an answer.
const ALIVE_WANTED_AT: usize = 17;

/// A session.
pub(super) struct Talk {
    link: Link,
}

/// A backup whose stream comes now.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) start: Lsn,
    pub(super) timeline: u32,
    /// Tablespaces that lie elsewhere: oid, place.
    pub(super) tablespaces: Vec<(u32, String)>,
}

/// A backup whose stream is through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) stop: Lsn,
    pub(super) timeline: u32,
    /// Whether the server found pages that do not fit their checksums.
    pub(super) found_corrupt: bool,
}

/// A piece of the stream of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    /// An archive begins: `base.tar`, or a tablespace by its number.
    Archive {
        name: String,
    },
    Bytes(Vec<u8>),
    /// The manifest begins.
    Manifest,
}

/// Bytes of the log.
pub(super) struct Logged {
    pub(super) at: Lsn,
    body: Vec<u8>,
}

impl Logged {
    pub(super) fn bytes(&self) -> &[u8] {
        self.body.get(LOG_HEAD_BYTES..).unwrap_or_default()
    }
}

impl Talk {
    /// Connects and gets in.
    ///
    /// # Errors
    /// Who refused, and the way out.
    pub(super) fn open(dial: &Dial) -> Result<Self, PgError> {
        let mut link = Link::dial(dial)?;
        login::enter(&mut link, dial)?;
        Ok(Self { link })
    }

    /// The identifier of the system that the server is of.
    ///
    /// # Errors
    /// It does not say.
    pub(super) fn system_identifier(&mut self) -> Result<u64, WireError> {
        let rows = self.ask("say who it is", "IDENTIFY_SYSTEM")?;
        let known = rows.first().and_then(|row| row.value(0));
        known.ok_or_else(|| self.link.odd("nothing of who it is"))
    }

    /// Asks; the rows of the answer.
    ///
    /// # Errors
    /// It refused, or the connection broke.
    pub(super) fn ask(&mut self, what: &'static str, command: &str) -> Result<Vec<Row>, WireError> {
        self.command(command)?;
        let mut rows = Vec::new();
        loop {
            let Message { tag, body } = self.link.hear()?;
            match tag {
                b'D' => rows.push(self.row(&body)?),
                b'E' => return Err(self.refused(what, &body)),
                b'Z' => return Ok(rows),
                b'C' | b'I' | b'S' | b'T' => {}
                b'N' => noticed(&body),
                other => return Err(self.out_of_place(other, "an answer")),
            }
        }
    }

    /// Keeps the log from here on, by a slot that goes with the session.
    ///
    /// # Errors
    /// It refused, or the connection broke.
    pub(super) fn keep_log(&mut self, slot: &str) -> Result<(), WireError> {
        let what = "make a temporary replication slot (is max_replication_slots reached?)";
        let make = format!("CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY PHYSICAL RESERVE_WAL");
        self.ask(what, &make).map(drop)
    }

    /// Begins a backup: waits for its checkpoint, up to where the stream begins.
    ///
    /// # Errors
    /// It refused, or the connection broke.
    pub(super) fn begin_backup(&mut self, label: &str) -> Result<Begun, WireError> {
        let command = format!(
            "BASE_BACKUP ( LABEL '{}', CHECKPOINT 'fast', WAL, WAIT 0, TABLESPACE_MAP, MANIFEST \
             'yes', MANIFEST_CHECKSUMS 'CRC32C' )",
            label.replace('\'', "''")
        );
        self.command(&command)?;
        let (mut start, mut tablespaces, mut answers) = (None, Vec::new(), 0);
        loop {
            let Message { tag, body } = self.link.hear()?;
            match tag {
                b'T' => answers += 1,
                b'D' => {
                    let row = self.row(&body)?;
                    match (answers, row.value(0)) {
                        (1, _) => start = row.value::<Lsn>(0).zip(row.value::<u32>(1)),
                        (_, Some(oid)) => {
                            tablespaces.push((oid, row.value(1).unwrap_or_default()));
                        }
                        // The data directory itself has no number.
                        _ => {}
                    }
                }
                b'E' => return Err(self.refused("begin the backup", &body)),
                b'H' => {
                    let odd = || self.link.odd("no place where the backup begins");
                    let (start, timeline) = start.ok_or_else(odd)?;
                    return Ok(Begun { start, timeline, tablespaces });
                }
                b'C' | b'S' => {}
                b'N' => noticed(&body),
                other => return Err(self.out_of_place(other, "BASE_BACKUP")),
            }
        }
    }

    /// The next piece of a backup's stream; none at its end.
    ///
    /// # Errors
    /// The server gave up, or the connection broke.
    pub(super) fn piece(&mut self) -> Result<Option<Piece>, WireError> {
        loop {
            let Message { tag, mut body } = self.link.hear()?;
            match tag {
                b'd' => match body.first() {
                    Some(b'd') => {
                        body.drain(..1);
                        return Ok(Some(Piece::Bytes(body)));
                    }
                    Some(b'm') => return Ok(Some(Piece::Manifest)),
                    Some(b'n') => {
                        let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
                        let name = name.get(1..).unwrap_or_default();
                        let name = String::from_utf8_lossy(name).into_owned();
                        return Ok(Some(Piece::Archive { name }));
                    }
                    // How far it is.
                    Some(b'p') => {}
                    other => return Err(self.link.odd(format!("a piece of kind {other:?}"))),
                },
                b'c' => return Ok(None),
                b'E' => return Err(self.refused("go on with the backup", &body)),
                b'S' => {}
                b'N' => noticed(&body),
                other => return Err(self.out_of_place(other, "a backup")),
            }
        }
    }

    /// Hears how a backup ended, once its stream is through.
    ///
    /// # Errors
    /// The server takes it back, or the connection broke.
    pub(super) fn end_backup(&mut self) -> Result<Ended, WireError> {
        let (mut end, mut found_corrupt) = (None, false);
        loop {
            let Message { tag, body } = self.link.hear()?;
            match tag {
                b'D' => {
                    let row = self.row(&body)?;
                    end = row.value::<Lsn>(0).zip(row.value::<u32>(1));
                }
                // All was sent before it says so.
                b'E' if end.is_some() && Told::read(&body).code == CORRUPTED => {
                    found_corrupt = true;
                }
                b'E' => return Err(self.refused("end the backup", &body)),
                b'Z' => {
                    let odd = || self.link.odd("no place where the backup ends");
                    let (stop, timeline) = end.ok_or_else(odd)?;
                    return Ok(Ended { stop, timeline, found_corrupt });
                }
                b'C' | b'S' | b'T' => {}
                b'N' => noticed(&body),
                other => return Err(self.out_of_place(other, "the end of a backup")),
            }
        }
    }

    /// Begins to stream the log that a slot keeps.
    ///
    /// # Errors
    /// It refused, or the connection broke.
    pub(super) fn begin_log(
        &mut self,
        slot: &str,
        (from, timeline): (Lsn, u32),
    ) -> Result<(), WireError> {
        self.command(&format!(
            "START_REPLICATION SLOT \"{slot}\" PHYSICAL {from} TIMELINE {timeline}"
        ))?;
        loop {
            let Message { tag, body } = self.link.hear()?;
            match tag {
                b'W' => return Ok(()),
                b'E' => return Err(self.refused("stream its log", &body)),
                b'S' => {}
                b'N' => noticed(&body),
                other => return Err(self.out_of_place(other, "START_REPLICATION")),
            }
        }
    }

    /// The next bytes of the log; none where the server ends the timeline.
    ///
    /// # Errors
    /// The server gave up, or the connection broke.
    pub(super) fn logged(&mut self) -> Result<Option<Logged>, WireError> {
        loop {
            let Message { tag, body } = self.link.hear()?;
            match (tag, body.first()) {
                (b'd', Some(b'w')) => {
                    let at = body.get(1..9).and_then(|eight| eight.try_into().ok());
                    let at = at.ok_or_else(|| self.link.odd("a piece of log without place"))?;
                    return Ok(Some(Logged { at: Lsn(u64::from_be_bytes(at)), body }));
                }
                (b'd', Some(b'k')) => {
                    if body.get(ALIVE_WANTED_AT) == Some(&1) {
                        self.alive()?;
                    }
                }
                (b'c', _) => return Ok(None),
                (b'E', _) => return Err(self.refused("go on with its log", &body)),
                (b'S', _) => {}
                (b'N', _) => noticed(&body),
                (other, _) => return Err(self.out_of_place(other, "the log")),
            }
        }
    }

    /// Ends the stream of the log, whoever ended it first.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn end_log(&mut self) -> Result<(), WireError> {
        let mut bytes = BytesMut::new();
        frontend::copy_done(&mut bytes);
        self.link.say(&bytes)?;
        loop {
            let Message { tag, body } = self.link.hear()?;
            match tag {
                b'E' => return Err(self.refused("end the stream of its log", &body)),
                b'Z' => return Ok(()),
                // What was on its way, and where the next timeline begins, which is known.
                b'C' | b'D' | b'S' | b'T' | b'c' | b'd' => {}
                b'N' => noticed(&body),
                other => return Err(self.out_of_place(other, "the end of the log")),
            }
        }
    }

    /// Says that somebody is here, and of no place that it is kept: that would move the slot on,
    /// and would make commits wait for us where every standby is a synchronous one.
    fn alive(&mut self) -> Result<(), WireError> {
        let mut body = vec![0; 34];
        if let Some(kind) = body.first_mut() {
            *kind = b'r';
        }
        let mut bytes = BytesMut::new();
        let framed = frontend::CopyData::new(&*body).map_err(|source| self.link.broken(source))?;
        framed.write(&mut bytes);
        self.link.say(&bytes)
    }

    pub(super) fn odd(&self, what: impl Into<String>) -> WireError {
        self.link.odd(what)
    }

    fn command(&mut self, command: &str) -> Result<(), WireError> {
        let mut bytes = BytesMut::new();
        frontend::query(command, &mut bytes).map_err(|source| self.link.broken(source))?;
        self.link.say(&bytes)
    }

    fn row(&self, body: &[u8]) -> Result<Row, WireError> {
        Row::read(body).ok_or_else(|| self.link.odd("a row that is none"))
    }

    /// An error of the server; what it says up to the end of the command is heard, so that the
    /// next one can be given.
    fn refused(&mut self, what: &'static str, body: &[u8]) -> WireError {
        let Told { code, text } = Told::read(body);
        loop {
            match self.link.hear() {
                Ok(Message { tag: b'Z', .. }) | Err(_) => break,
                Ok(_) => {}
            }
        }
        WireError::Refused { what, said: text, code }
    }

    fn out_of_place(&self, tag: u8, during: &str) -> WireError {
        self.link.odd(format!("a message of kind {:?} during {during}", char::from(tag)))
    }
}

impl Drop for Talk {
    /// The server is rid of the session, its slot and its backup at once.
    fn drop(&mut self) {
        let mut bytes = BytesMut::new();
        frontend::terminate(&mut bytes);
        // A connection that broke is gone already.
        let _ = self.link.say(&bytes);
    }
}

fn noticed(body: &[u8]) {
    let Told { code, text } = Told::read(body);
    tracing::debug!(code, text, "the server remarks");
}
