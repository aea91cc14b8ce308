//! A libvirt of a test's own: its daemon with the directories it writes to bound to private ones,
//! in namespaces of mounts and processes that end with it and take its machines along.

#![allow(clippy::unwrap_used, reason = "what tests share")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The daemon's first look at QEMU takes long; what it saw is kept between runs.
const START: Duration = Duration::from_secs(300);
const SCRIPT: &str = "set -e
mount --make-rprivate /
for name in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /etc/libvirt; do
  mkdir -p $name; mkdir -p \"$1/dirs$name\"
done
for name in /run/libvirt /var/lib/libvirt /var/log/libvirt /etc/libvirt; do
  mount --bind \"$1/dirs$name\" $name
done
mount --bind \"$2\" /var/cache/libvirt
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/qemu
libvirtd -f \"$1/libvirtd.conf\" -p \"$1/libvirtd.pid\" &
# The shell is the first process: whatever ends without a parent is its to bury.
wait $!
";

/// A running daemon; it ends with its value.
pub(crate) struct Daemon {
    child: Child,
    uri: String,
}

impl Daemon {
    /// Starts one whose socket is in `dir`; `cache` is shared with other runs.
    pub(crate) fn start(dir: &Path, cache: &Path) -> Self {
        // One at a time looks at QEMU.
        static STARTING: Mutex<()> = Mutex::new(());
        let _one = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        fs::create_dir_all(cache).unwrap();
        let etc = dir.join("dirs/etc/libvirt");
        fs::create_dir_all(&etc).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
        // Neither a log daemon nor control groups: a host without an init has them not.
        fs::write(etc.join("qemu.conf"), "stdio_handler = \"file\"\ncgroup_controllers = []\n")
            .unwrap();
        let text = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n",
            dir.join("sock").display()
        );
        fs::write(dir.join("libvirtd.conf"), text).unwrap();
        fs::create_dir_all(dir.join("sock")).unwrap();
        let log = fs::File::create(dir.join("libvirtd.log")).unwrap();
        let mut daemon = Command::new("unshare");
        daemon.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        daemon.args(["sh", "-c", SCRIPT, "sh"]).arg(dir).arg(cache);
        daemon.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = daemon.spawn().unwrap();
        let socket = dir.join("sock/libvirt-sock");
        let uri = format!("qemu:///system?socket={}", socket.display());
        let mut this = Self { child, uri };
        let until = Instant::now() + START;
        // The look at QEMU comes with the first question about it.
        while this.try_virsh(&["domcapabilities", "--virttype", "qemu"]).is_err() {
            let log = fs::read_to_string(dir.join("libvirtd.log")).unwrap();
            assert!(Instant::now() < until, "libvirtd does not answer: {log}");
            assert!(this.child.try_wait().unwrap().is_none(), "libvirtd ended: {log}");
            std::thread::sleep(Duration::from_millis(100));
        }
        this
    }

    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// Asks as a person would.
    pub(crate) fn try_virsh(&self, words: &[&str]) -> Result<String, String> {
        let mut virsh = Command::new("virsh");
        let said = virsh.args(["-q", "-c", &self.uri]).args(words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if said.status.success() { Ok(text(&said.stdout)) } else { Err(text(&said.stderr)) }
    }

    pub(crate) fn virsh(&self, words: &[&str]) -> String {
        self.try_virsh(words).unwrap_or_else(|error| panic!("virsh {words:?}: {error}"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its machines go with its namespace.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
