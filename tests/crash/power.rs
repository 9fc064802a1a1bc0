//! Power that goes under a store in a real folder: a file system of its own is shut down, with all that it had not made durable.
//!
//! Goal: to refute P1 where the simulated disk is not asked: what a kernel and a file system make of the store's calls. Method: the child writes at
//! `Sync`; at a random moment ext4 is told to go down at once, without its log, and is mounted again. Invariant: what is mounted is unmounted,
//! whatever the test comes to. Where there is no right to mount, or no tool, it is skipped, and said.
#![expect(clippy::disallowed_methods, reason = "it makes a file system for the store to be on")]

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use super::*;

const FS_BYTES: u64 = 64 << 20;

/// How often the power goes.
const LOSSES: u64 = 12;

/// `EXT4_IOC_SHUTDOWN`, with `EXT4_GOING_FLAGS_NOLOGFLUSH`.
const SHUT_DOWN: &str = "import fcntl, os, struct, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// Runs a command; says why not, if it does not succeed.
fn done(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| format!("no {program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {arguments:?}: {said}")) }
}

/// A file system in a file.
struct Machine {
    image: PathBuf,
    at: PathBuf,
    _folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("mnt"));
        std::fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(FS_BYTES).unwrap();
        done("mkfs.ext4", &["-q", "-m", "0", "-F", image.to_str().unwrap()])?;
        let machine = Self { image, at, _folder: folder };
        machine.turn_on()?;
        Ok(machine)
    }

    fn turn_on(&self) -> Result<(), String> {
        done("mount", &["-o", "loop", self.image.to_str().unwrap(), self.at.to_str().unwrap()])
    }

    fn lose_power(&self) -> Result<(), String> {
        done("python3", &["-c", SHUT_DOWN, self.at.to_str().unwrap()])
    }

    fn turn_off(&self) -> Result<(), String> {
        done("umount", &[self.at.to_str().unwrap()])
    }

    fn folder(&self) -> PathBuf {
        self.at.join("store")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = done("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

#[test]
fn power_that_goes_under_a_real_file_system_leaves_what_was_acknowledged() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return child::run(&folder, number(LIFE, 0), number(SEED, SEED_OWN), true);
    }
    let machine = match Machine::new() {
        Ok(machine) => machine,
        Err(why) => return println!("skipped: {why}"),
    };
    let seed = number(SEED, SEED_OWN);
    println!("{SEED}={seed}");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut known, mut acknowledged) = (BTreeMap::new(), 0);
    for life in 0..number("CLOAKROOM_LOSSES", LOSSES) {
        let lines = rng.random_range(0..600);
        match one_life(&machine, life, lines, &mut known) {
            Ok(more) => acknowledged += more,
            Err(why) => return println!("skipped: {why}"),
        }
        machine.turn_off().unwrap();
        machine.turn_on().unwrap();
        check(&machine.folder(), &mut known, life % 3 == 0);
    }
    assert!(acknowledged > 500, "the children did next to nothing: {acknowledged}");
}

/// Starts a child, takes the power away when it has said so many lines, and takes down what it said.
fn one_life(
    machine: &Machine,
    life: u64,
    lines: usize,
    known: &mut BTreeMap<u64, Known>,
) -> Result<usize, String> {
    let mut child = start(
        "power::power_that_goes_under_a_real_file_system_leaves_what_was_acknowledged",
        &machine.folder(),
        life,
    );
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    for line in said.by_ref().take(lines) {
        acknowledged += usize::from(note(&line.unwrap(), known));
    }
    // With the power the process stops as well: what a sync answers under a file system that goes down must not be believed.
    let lost = done("kill", &["-STOP", &child.id().to_string()]).and_then(|()| machine.lose_power());
    child.kill().unwrap();
    child.wait().unwrap();
    for line in said.map_while(Result::ok) {
        acknowledged += usize::from(note(&line, known));
    }
    lost.map(|()| acknowledged)
}
