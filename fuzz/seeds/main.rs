//! Writes the first inputs of each target below `corpus/`, next to this package: small programs of bytes that reach the usual paths.
//!
//! They are made, not kept, so that they cannot fall behind the format they speak.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use cloakroom::probe::{Form, decode, places};
use cloakroom::{Access, Lifetime, MemoryStore, Session, SessionId, SessionStore as _};
use cloakroom_fuzz::Whole;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let id = SessionId::random()?.to_text();
    let ids = [id.clone(), format!("{id}="), "A".repeat(43), "_".repeat(43), format!("{}B", "A".repeat(42))];
    write("session_id", ids.iter().map(String::as_bytes))?;

    let mut payloads = vec![Vec::new()];
    for fields in [0, 1, 3, 200] {
        payloads.push(payload(fields).await?);
    }
    write("session_payload", payloads.iter().map(Vec::as_slice))?;

    write("decode", forms().iter().map(Vec::as_slice))?;
    write("forged", forgeries().iter().map(Vec::as_slice))?;
    write("crashes", crashes().iter().map(Vec::as_slice))?;
    write("operations", operations().iter().map(Vec::as_slice))?;
    let damages = (0..12_u8).map(|n| vec![n % 2, n % 6, n / 2, n.wrapping_mul(77), n, 0, 1 << (n % 8)]);
    write("damage", damages.collect::<Vec<_>>().iter().map(Vec::as_slice))?;
    Ok(())
}

/// What a session of so many fields is stored as.
async fn payload(fields: usize) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let store = MemoryStore::new();
    let mut session = Session::new(Lifetime::idle(Duration::from_secs(60)));
    session.insert("user", &42)?;
    session.save(&store).await?;
    session.remove("user");
    for n in 0..fields {
        session.insert(&format!("field {n}"), &vec!["value"; n % 5])?;
    }
    session.save(&store).await?;
    let id = session.id().ok_or("a saved session has an id")?;
    let stored = store.get(id.key(), Access::Peek).await?.ok_or("it is live")?;
    Ok(stored.payload.to_vec())
}

/// Every kind of part that the files of a store have, as the target takes them: form, mended or not, bit, id and salt, then the bytes.
fn forms() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    let whole = Whole::new(8, true);
    for name in whole.disk.names() {
        let bytes = whole.disk.contents(&name).unwrap_or_default();
        if name == "MANIFEST" {
            inputs.push(input(3, &bytes, &bytes));
        }
        for (form, at) in places(&bytes) {
            let Ok(part) = decode(form, &bytes, at) else { continue };
            let forms = [Form::Segment, Form::Group, Form::Record, Form::Manifest, Form::Footer];
            let number = forms.iter().position(|f| *f == form);
            // Long payloads show nothing that a short one does not.
            inputs.push(input(u8::try_from(number.unwrap_or(0)).unwrap_or(0), &bytes, &part));
        }
    }
    // A store's last part is its footer.
    inputs.reverse();
    inputs.truncate(48);
    inputs
}

/// As if the part stood at the front of its segment: its checksums are mended there.
fn input(form: u8, segment: &[u8], part: &[u8]) -> Vec<u8> {
    let at = |from: usize, len: usize| segment.get(from..from + len).unwrap_or(&[0; 8][..len]).to_vec();
    [vec![form, 1, 9, 2], at(40, 4), at(48, 8), part.to_vec()].concat()
}

/// One change of each kind, in each place that a field has.
fn forgeries() -> Vec<Vec<u8>> {
    let fields = (0..8_u8).flat_map(|what| (0..48_u8).step_by(5).map(move |part| (what, part)));
    let change = |(what, part): (u8, u8)| {
        [
            u8::from(part % 2 == 0),
            what,
            part,
            part.wrapping_mul(3),
            0,
            part.wrapping_mul(11),
            0,
            part % 9 * 4,
            1,
            0,
            0,
        ]
    };
    let lists =
        (0..16_u8).map(|part| [0, 7, 0, part, 0, part, 0, part.wrapping_mul(37), 0, 0, part % 2 * 128]);
    fields.map(change).chain(lists).map(|input| input.to_vec()).collect()
}

/// Histories that the power ends at some call, that a kill ends, and that go on afterwards.
fn crashes() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for disk in 0..12_u8 {
        let mut input = vec![disk];
        for n in 0..90_u8 {
            let mixed = n.wrapping_mul(37).wrapping_add(disk.wrapping_mul(59));
            let what = match n % 15 {
                6 => 18,
                14 => 21 + disk % 2,
                _ => mixed % 18 + 23 * (mixed % 3),
            };
            input.extend([what, n % 10, mixed, mixed.wrapping_mul(7), n % 24]);
        }
        inputs.push(input);
    }
    inputs
}

/// Sequences of the four-byte operations that the target reads.
fn operations() -> Vec<Vec<u8>> {
    let life = [
        [0, 1, 80, 7],
        [6, 1, 0, 0],
        [3, 1, 90, 8],
        [5, 1, 20, 1],
        [5, 1, 20, 2],
        [8, 1, 0, 0],
        [16, 0, 200, 60],
        [7, 1, 0, 0],
        [11, 1, 0, 0],
        [6, 1, 0, 0],
        [14, 0, 0, 0],
        [6, 1, 0, 0],
        [10, 1, 0, 0],
        [3, 1, 5, 5],
        [14, 0, 0, 0],
    ];
    // Rotated, shortened, expired: nothing of it may come back after power loss.
    let shortened = [[2, 4, 176, 254], [11, 4, 0, 2], [9, 4, 63, 0], [15, 0, 0, 20], [16, 4, 255, 239]];
    let each = [0, 1, 2, 3].map(|kind| {
        let made = (0..8).map(|n| [2, n, 40 + 4 * n + kind, n]);
        let moved = (0..8)
            .flat_map(|n| [[16, 0, 255, 20], [7, n, 0, 0], [9, n, 60 + kind, 0], [14 + kind % 2, 0, 0, 0]]);
        made.chain(moved).flatten().collect()
    });
    let churn = (0..240).flat_map(|n| [2 + u8::from(n % 3 == 0), n, 255, n]).collect();
    [life.concat(), shortened.concat(), churn].into_iter().chain(each).collect()
}

fn write<'a>(target: &str, inputs: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&folder)?;
    for (number, input) in inputs.enumerate() {
        fs::write(folder.join(format!("seed-{number}")), input)?;
    }
    Ok(())
}
