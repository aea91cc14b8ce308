//! What server and client agree on before a device is served. Pure: options in, answers out.
//! Promises that nothing but the beginning of encryption is answered where it is demanded and
//! not yet there; refuses what does not fit, by name, and goes on.

use super::option::{
    ABORT, ABOUT_BLOCK_SIZE, ABOUT_DESCRIPTION, ABOUT_EXPORT, ABOUT_NAME, ACK, EXPORT_NAME,
    FIXED_NEWSTYLE, Fields, GO, GREETING, INFO, INFORMATION, INVALID, LIST, LIST_META_CONTEXT,
    META_CONTEXT, NO_ZEROES, OPTION_BYTES_MAX, OPTION_HEAD_BYTES, OPTION_MAGIC, POLICY, SERVER,
    SET_META_CONTEXT, STARTTLS, STRUCTURED_REPLY, TLS_REQUIRED, TOO_BIG, UNKNOWN, UNSUPPORTED,
    answer, as_text, head, text,
};
use super::order::{LENGTH_MAX, flags_of};

/// Bytes of what a server says first.
pub const WHOLE_GREETING: usize = 18;
/// The context that says where data lies.
const ALLOCATION: &str = "base:allocation";
/// The number by which that context is named; there is no other.
pub(super) const ALLOCATION_ID: u32 = 1;
/// Options of one client: those there are, several times over.
const OPTIONS_MAX: u32 = 256;
/// What the oldest option is answered with, behind size and flags.
const PADDING_BYTES: usize = 124;
/// What is best read at once, in bytes: a chunk of a disk.
const PREFERRED_BYTES: u32 = 64 << 10;

/// Why a conversation cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the client breaks the protocol: {0}")]
pub struct Broken(pub &'static str);

/// A device that is offered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    pub name: String,
    /// For people.
    pub description: String,
    pub bytes: u64,
    pub writable: bool,
}

/// Whether the conversation is encrypted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Secrecy {
    /// It is.
    Encrypted,
    /// It need not be, and cannot be.
    Plain,
    /// It must be before anything is told.
    Wanted,
}

/// What was agreed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreed {
    /// The place of the offer.
    pub offer: usize,
    /// Whether answers come in chunks.
    pub structured: bool,
    /// Whether it may be asked where data lies.
    pub allocation: bool,
    pub bytes: u64,
    pub writable: bool,
}

/// What comes after an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// The connection ends.
    End,
    /// Another option.
    Option,
    /// The handshake of TLS, and then everything anew.
    StartTls,
    /// The device is served.
    Transmit(Agreed),
}

/// An answer to an option.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    pub bytes: Vec<u8>,
    pub next: Next,
}

impl Answer {
    const fn more(bytes: Vec<u8>) -> Self {
        Self { bytes, next: Next::Option }
    }

    fn refusal(option: u32, kind: u32, why: &str) -> Self {
        let mut bytes = Vec::new();
        answer(&mut bytes, option, kind, why.as_bytes());
        Self::more(bytes)
    }

    fn ack(mut bytes: Vec<u8>, option: u32, next: Next) -> Self {
        answer(&mut bytes, option, ACK, &[]);
        Self { bytes, next }
    }

    const fn end() -> Self {
        Self { bytes: Vec::new(), next: Next::End }
    }
}

/// One client's haggling.
#[derive(Debug)]
pub struct Haggle<'o> {
    offers: &'o [Offer],
    secrecy: Secrecy,
    structured: bool,
    padded: bool,
    /// The offer for which the context was agreed on.
    allocation_of: Option<usize>,
    options: u32,
}

impl<'o> Haggle<'o> {
    /// Begins with nothing agreed on.
    pub const fn new(offers: &'o [Offer], secrecy: Secrecy) -> Self {
        let (structured, padded, allocation_of) = (false, true, None);
        Self { offers, secrecy, structured, padded, allocation_of, options: 0 }
    }

    /// The conversation is encrypted from here on: nothing that was agreed on before counts.
    pub const fn encrypted(&mut self) {
        self.secrecy = Secrecy::Encrypted;
        self.structured = false;
        self.allocation_of = None;
    }

    /// What the server says first.
    pub fn greeting() -> [u8; WHOLE_GREETING] {
        let mut greeting = [0; WHOLE_GREETING];
        let flags = FIXED_NEWSTYLE | NO_ZEROES;
        let said = [&GREETING.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &flags.to_be_bytes()];
        for (place, byte) in greeting.iter_mut().zip(said.concat()) {
            *place = byte;
        }
        greeting
    }

    /// What the client answers to it.
    ///
    /// # Errors
    /// It wants what was not offered.
    pub fn client_flags(&mut self, flags: [u8; 4]) -> Result<(), Broken> {
        let flags = u32::from_be_bytes(flags);
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(Broken("flags that were not offered"));
        }
        self.padded = flags & u32::from(NO_ZEROES) == 0;
        Ok(())
    }

    /// How much data the option has that begins with `bytes`: read it, and then ask
    /// [`Self::option`]. An option that is too long is answered at once.
    ///
    /// # Errors
    /// No option begins so, or the client would go on for ever.
    pub fn begins(&mut self, bytes: &[u8; OPTION_HEAD_BYTES]) -> Result<Begun, Broken> {
        let (option, length) = head(bytes)?;
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Err(Broken("options without end"));
        }
        if length <= OPTION_BYTES_MAX {
            return Ok(Begun::Data { option, length });
        }
        let mut answer = Answer::refusal(option, TOO_BIG, "64 KiB are the most an option may have");
        // What follows would have to be read to be passed over.
        answer.next = Next::End;
        Ok(Begun::TooLong(answer))
    }

    /// Answers an option.
    pub fn option(&mut self, option: u32, data: &[u8]) -> Answer {
        if self.secrecy == Secrecy::Wanted && !matches!(option, STARTTLS | ABORT) {
            if option == EXPORT_NAME {
                return Answer::end();
            }
            let why = "this export leaves its host: connect with TLS, and with a certificate of \
                       its organisation";
            return Answer::refusal(option, TLS_REQUIRED, why);
        }
        match option {
            EXPORT_NAME => self.export_name(data),
            ABORT => Answer::ack(Vec::new(), option, Next::End),
            LIST if data.is_empty() => self.list(),
            STARTTLS if data.is_empty() => self.start_tls(),
            STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                Answer::ack(Vec::new(), option, Next::Option)
            }
            LIST | STARTTLS | STRUCTURED_REPLY => {
                Answer::refusal(option, INVALID, "this option has no data")
            }
            INFO | GO => self.info(option, data),
            LIST_META_CONTEXT | SET_META_CONTEXT => self.contexts(option, data),
            _ => Answer::refusal(option, UNSUPPORTED, "this option is not known here"),
        }
    }

    fn start_tls(&self) -> Answer {
        match self.secrecy {
            Secrecy::Wanted => Answer::ack(Vec::new(), STARTTLS, Next::StartTls),
            Secrecy::Encrypted => Answer::refusal(STARTTLS, INVALID, "it is encrypted already"),
            Secrecy::Plain => Answer::refusal(STARTTLS, POLICY, "this export has no certificate"),
        }
    }

    /// The offer of a name; the empty one means the only one.
    fn find(&self, name: &str) -> Option<usize> {
        match self.offers {
            [_] if name.is_empty() => Some(0),
            offers => offers.iter().position(|offer| offer.name == name),
        }
    }

    fn agreed(&self, place: usize, offer: &Offer) -> Agreed {
        Agreed {
            offer: place,
            structured: self.structured,
            allocation: self.structured && self.allocation_of == Some(place),
            bytes: offer.bytes,
            writable: offer.writable,
        }
    }

    /// The oldest option: there is no refusal but the end.
    fn export_name(&self, data: &[u8]) -> Answer {
        let found = as_text(data).and_then(|name| self.find(name));
        let offer = found.and_then(|place| Some((place, self.offers.get(place)?)));
        let Some((place, offer)) = offer else { return Answer::end() };
        let mut bytes = Vec::new();
        bytes.extend(offer.bytes.to_be_bytes());
        bytes.extend(flags_of(offer, self.structured).to_be_bytes());
        if self.padded {
            bytes.extend([0; PADDING_BYTES]);
        }
        Answer { bytes, next: Next::Transmit(self.agreed(place, offer)) }
    }

    fn list(&self) -> Answer {
        let mut bytes = Vec::new();
        for offer in self.offers {
            let mut told = Vec::new();
            text(&mut told, &offer.name);
            told.extend(offer.description.as_bytes());
            answer(&mut bytes, LIST, SERVER, &told);
        }
        Answer::ack(bytes, LIST, Next::Option)
    }

    fn info(&self, option: u32, data: &[u8]) -> Answer {
        let Some((name, wanted)) = asked(data) else {
            return Answer::refusal(option, INVALID, "a name and what is to be told do not add up");
        };
        let found = self.find(name).and_then(|place| Some((place, self.offers.get(place)?)));
        let Some((place, offer)) = found else { return self.unknown(option, name) };
        let mut bytes = Vec::new();
        let mut tell = |about: u16, told: &[u8]| {
            let told = [&about.to_be_bytes()[..], told].concat();
            answer(&mut bytes, option, INFORMATION, &told);
        };
        let flags = flags_of(offer, self.structured);
        tell(ABOUT_EXPORT, &[&offer.bytes.to_be_bytes()[..], &flags.to_be_bytes()].concat());
        if wanted.contains(&ABOUT_NAME) {
            tell(ABOUT_NAME, offer.name.as_bytes());
        }
        if wanted.contains(&ABOUT_DESCRIPTION) {
            tell(ABOUT_DESCRIPTION, offer.description.as_bytes());
        }
        let sizes = [1, PREFERRED_BYTES, LENGTH_MAX].map(u32::to_be_bytes);
        tell(ABOUT_BLOCK_SIZE, &sizes.concat());
        let next = match option {
            GO => Next::Transmit(self.agreed(place, offer)),
            _ => Next::Option,
        };
        Answer::ack(bytes, option, next)
    }

    fn unknown(&self, option: u32, name: &str) -> Answer {
        let known: Vec<&str> = self.offers.iter().map(|offer| offer.name.as_str()).collect();
        let why = format!("there is no export {name:?} here, but {}", known.join(", "));
        Answer::refusal(option, UNKNOWN, &why)
    }

    fn contexts(&mut self, option: u32, data: &[u8]) -> Answer {
        let sets = option == SET_META_CONTEXT;
        if sets {
            self.allocation_of = None;
            if !self.structured {
                return Answer::refusal(option, INVALID, "ask for structured replies first");
            }
        }
        let Some((name, queries)) = queried(data) else {
            return Answer::refusal(option, INVALID, "a name and its queries do not add up");
        };
        let Some(place) = self.find(name) else { return self.unknown(option, name) };
        let all = !sets && queries.is_empty();
        let fits = |query: &&str| *query == ALLOCATION || (!sets && *query == "base:");
        let mut bytes = Vec::new();
        if all || queries.iter().any(fits) {
            let id = if sets { ALLOCATION_ID } else { 0 };
            let told = [&id.to_be_bytes()[..], ALLOCATION.as_bytes()].concat();
            answer(&mut bytes, option, META_CONTEXT, &told);
            if sets {
                self.allocation_of = Some(place);
            }
        }
        Answer::ack(bytes, option, Next::Option)
    }
}

/// An option of which the beginning was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Begun {
    /// So many bytes of data follow.
    Data { option: u32, length: u32 },
    /// It is too long to be read.
    TooLong(Answer),
}

/// A name, and what is to be told of it.
fn asked(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut fields = Fields(data);
    let (name, count) = (fields.text()?, fields.u16()?);
    let wanted: Option<Vec<u16>> = (0..count).map(|_| fields.u16()).collect();
    wanted.filter(|_| fields.is_empty()).map(|wanted| (name, wanted))
}

/// A name, and queries of contexts.
fn queried(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut fields = Fields(data);
    let (name, count) = (fields.text()?, fields.u32()?);
    let mut queries = Vec::new();
    // As many as there are bytes for; the count may say anything.
    for _ in 0..count {
        queries.push(fields.text()?);
    }
    fields.is_empty().then_some((name, queries))
}
