//! A tape library of tgt, in user space, over iSCSI; and a way to it that goes wrong on demand.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may stop")]

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strongroom_store::tape::Barcode;
use strongroom_store::tape::scsi::{
    Answer, CHECK_CONDITION, Connect, Data, IscsiAddress, LibraryAddress, ScsiLibrary, Transport,
    UnitAddress,
};
use tempfile::TempDir;

const TARGET: &str = "iqn.2026-01.test:vtl";
/// Slots, of which the first hold the cartridges; mail slots are behind them.
const SLOTS: usize = 12;
pub(crate) const MAIL: u16 = 1100;

/// A program in the folders of the system, which PATH may not name.
fn tool(name: &str) -> Command {
    let there = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(name));
    let found = there.into_iter().find(|path| path.is_file());
    let mut command = Command::new(found.unwrap_or_else(|| panic!("{name}: install package tgt")));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// One tgtd with two drives, an arm and cartridges.
pub(crate) struct Tgt {
    dir: TempDir,
    port: u16,
    drives: usize,
    cartridges: Vec<String>,
    server: Child,
}

impl Tgt {
    /// Cartridges `VT0001L6` and so on of `mib` each, and a cleaning cartridge behind them.
    pub(crate) fn start(cartridges: usize, mib: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut names: Vec<String> = (1..=cartridges).map(name).collect();
        let image = |name: &str, size: u32, kind: &str, barcode: &str| {
            let file = dir.path().join(name);
            let size = size.to_string();
            let mut command = tool("tgtimg");
            command.args(["--op", "new", "--device-type", "tape", "--thin-provisioning"]);
            command.args(["--barcode", barcode, "--size", &size, "--type", kind, "--file"]);
            assert!(command.arg(file).status().expect("tgtimg").success());
        };
        image("NOTAPE", 1, "clean", "");
        names.iter().for_each(|name| image(name, mib, "data", name));
        names.push("CLN001L6".to_owned());
        image("CLN001L6", 1, "clean", "CLN001L6");
        std::fs::write(dir.path().join("smc"), [0; 1024]).expect("a file");
        std::fs::create_dir_all("/var/run/tgtd").expect("the directory of tgtd's sockets");
        let port = free_port();
        let server = serve(port, dir.path());
        let tgt = Self { dir, port, drives: 2, cartridges: names, server };
        tgt.set_up();
        tgt
    }

    fn admin(&self, arguments: &str) {
        let mut command = tool("tgtadm");
        command.args(["-C", &self.port.to_string(), "--lld", "iscsi"]);
        let done = command.args(arguments.split(' ')).status().expect("tgtadm");
        assert!(done.success(), "tgtadm {arguments}");
    }

    fn set_up(&self) {
        self.admin(&format!("--op new --mode target --tid 1 -T {TARGET}"));
        let unit = |arguments: String| self.admin(&format!("--mode logicalunit {arguments}"));
        let changer = |what: String| unit(format!("--op update --tid 1 --lun 3 --params {what}"));
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        for lun in 1..=self.drives {
            let empty = at("NOTAPE");
            unit(format!("--op new --tid 1 --lun {lun} -b {empty} --device-type=tape"));
            unit(format!("--op update --tid 1 --lun {lun} --params online=0"));
        }
        unit(format!("--op new --tid 1 --lun 3 -b {} --device-type=changer", at("smc")));
        changer(format!("media_home={}", self.dir.path().display()));
        changer(format!("element_type=4,start_address=1,quantity={}", self.drives));
        for lun in 1..=self.drives {
            changer(format!("element_type=4,address={lun},tid=1,lun={lun}"));
        }
        changer("element_type=1,start_address=16,quantity=1".to_owned());
        changer(format!("element_type=2,start_address=1000,quantity={SLOTS}"));
        for (number, name) in self.cartridges.iter().enumerate() {
            let slot = 1000 + number;
            changer(format!("element_type=2,address={slot},barcode={name},sides=1"));
        }
        changer(format!("element_type=3,start_address={MAIL},quantity=2"));
        self.admin("--op bind --mode target --tid 1 -I ALL");
    }

    /// `kill -9`, and started again: cartridges are kept, the map of elements is not.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    pub(crate) fn stop(&mut self) {
        self.server.kill().expect("kill");
        self.server.wait().expect("wait");
    }

    pub(crate) fn start_again(&mut self) {
        self.server = serve(self.port, self.dir.path());
        self.set_up();
    }

    /// Wants a user and a secret from now on.
    pub(crate) fn demand(&self, user: &str, secret: &str) {
        self.admin(&format!("--op new --mode account --user {user} --password {secret}"));
        self.admin(&format!("--op bind --mode account --tid 1 --user {user}"));
    }

    pub(crate) fn address(&self) -> LibraryAddress {
        self.text().parse().expect("an address")
    }

    pub(crate) fn text(&self) -> String {
        format!("iscsi://127.0.0.1:{}/{TARGET}", self.port)
    }

    /// One logical unit.
    pub(crate) fn unit(&self, lun: u16) -> UnitAddress {
        let LibraryAddress::Iscsi(target) = self.address() else { panic!("an iSCSI address") };
        UnitAddress::Iscsi(IscsiAddress { lun: Some(lun), ..target })
    }

    pub(crate) fn library(&self) -> Arc<ScsiLibrary> {
        Arc::new(ScsiLibrary::open(&self.address()).expect("the library"))
    }

    /// The backing file of a cartridge.
    pub(crate) fn cartridge(&self, number: usize) -> PathBuf {
        self.dir.path().join(name(number))
    }
}

impl Drop for Tgt {
    fn drop(&mut self) {
        // A server that is gone already is what is wanted.
        let _ = self.server.kill();
        let _ = self.server.wait();
        for end in ["", ".lock"] {
            let _ = std::fs::remove_file(format!("/var/run/tgtd/socket.{}{end}", self.port));
        }
    }
}

/// A port nobody has, below the kernel's own range and no more than tgt takes as the number of
/// its socket (32767); which one differs from process to process and from call to call.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = u16::try_from(std::process::id() % 1000).expect("below a thousand") * 10;
    (0..12_000)
        .map(|_| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

fn serve(port: u16, dir: &Path) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    let mut command = tool("tgtd");
    command.args(["-f", "-C", &port.to_string(), "--iscsi"]);
    command.arg(format!("portal=127.0.0.1:{port}"));
    let mut server = command.stderr(log).spawn().expect("tgtd");
    for _ in 0..200 {
        let mut ask = tool("tgtadm");
        ask.args(["-C", &port.to_string(), "--lld", "iscsi", "--op", "show", "--mode", "sys"]);
        if ask.status().expect("tgtadm").success() {
            return server;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    server.kill().expect("kill");
    server.wait().expect("wait");
    panic!("tgtd does not answer: {:?}", std::fs::read_to_string(dir.join("log")));
}

fn name(number: usize) -> String {
    format!("VT{number:04}L6")
}

pub(crate) fn tape(number: usize) -> Barcode {
    name(number).parse().expect("a barcode")
}

/// What goes wrong, and when.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// The command it hits, by its first byte.
    pub(crate) command: u8,
    /// How many of them go well before.
    pub(crate) after: usize,
    pub(crate) kind: FaultKind,
}

#[derive(Clone, Debug)]
pub(crate) enum FaultKind {
    /// The device refuses with key, code and qualifier, and has done nothing.
    Sense(u8, u8, u8),
    /// The device did it, and the answer is lost.
    AnswerLost,
    /// The command never reaches the device.
    CommandLost,
    /// Half of a block reaches the medium, then the drive loses power.
    Torn,
}

/// Faults still to come, shared by every unit of a library.
pub(crate) type Faults = Arc<Mutex<Vec<Fault>>>;

struct Faulty {
    inner: Box<dyn Transport>,
    faults: Faults,
}

impl Faulty {
    fn due(&self, command: u8) -> Option<FaultKind> {
        let mut faults = self.faults.lock().expect("faults");
        let index = faults.iter().position(|fault| fault.command == command)?;
        match faults[index].after {
            0 => Some(faults.remove(index).kind),
            _ => {
                faults[index].after -= 1;
                None
            }
        }
    }
}

impl Transport for Faulty {
    fn execute(&mut self, cdb: &[u8], data: Data<'_>, patience: Duration) -> io::Result<Answer> {
        match self.due(cdb[0]) {
            None => self.inner.execute(cdb, data, patience),
            Some(FaultKind::Sense(key, code, qualifier)) => {
                let mut sense = vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier];
                sense.resize(18, 0);
                Ok(Answer { status: CHECK_CONDITION, sense, transferred: 0 })
            }
            Some(FaultKind::AnswerLost) => {
                self.inner.execute(cdb, data, patience)?;
                Err(io::ErrorKind::TimedOut.into())
            }
            Some(FaultKind::CommandLost) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(FaultKind::Torn) => {
                let Data::Out(block) = data else { panic!("only a write can be torn") };
                let half = &block[..block.len() / 2];
                let [_, a, b, c] = u32::try_from(half.len()).expect("short").to_be_bytes();
                self.inner.execute(&[0x0a, 0, a, b, c, 0], Data::Out(half), patience)?;
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
    }

    fn name(&self) -> &str {
        self.inner.name()
    }
}

/// A library whose devices go wrong as told.
pub(crate) fn faulty(tgt: &Tgt, faults: &Faults) -> Arc<ScsiLibrary> {
    let faults = Arc::clone(faults);
    let plain = strongroom_store::tape::scsi::connect;
    let connect: Connect = Arc::new(move |address| {
        let faults = Arc::clone(&faults);
        Ok(Box::new(Faulty { inner: plain(address)?, faults }))
    });
    Arc::new(ScsiLibrary::open_with(&tgt.address(), connect).expect("the library"))
}
