//! Reads access logs in the Common and the Combined format: one line, one [`Entry`] or the reason why it is none.
//!
//! Pure text work; it knows nothing of sessions. Invariant: whatever the bytes of a line are, parsing gives an answer and never panics.

use std::cell::Cell;
use std::fmt;

use time::OffsetDateTime;
use time::format_description::StaticFormatDescription;
use time::macros::format_description;

/// Longer lines are refused: servers cap a request line at 8 KiB and a header at as much.
const LINE_BYTES_MAX: usize = 64 << 10;

const TIME: StaticFormatDescription = format_description!(
    "[day padding:zero]/[month repr:short]/[year]:[hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]"
);

/// One request of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Milliseconds since 1970; the log has whole seconds.
    pub at_ms: u64,
    pub visitor: Visitor,
    /// The request's target as it was logged, escapes and all.
    pub path: String,
}

/// Who asked, as far as a log can tell browsers apart: the address, and the user agent where the format has it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Visitor {
    pub address: String,
    pub agent: Option<String>,
}

impl fmt::Display for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        self.agent.iter().try_for_each(|agent| write!(f, " with {agent:?}"))
    }
}

/// Why a line is no entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Malformed {
    TooLong,
    NotText,
    Fields,
    Time,
    Request,
    Status,
    Size,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "longer than 64 KiB",
            Self::NotText => "not UTF-8",
            Self::Fields => "not the fields of the Common or the Combined format",
            Self::Time => "a time that cannot be read, or is before 1970",
            Self::Request => "no request line",
            Self::Status => "no HTTP status",
            Self::Size => "a size that is no number",
        })
    }
}

/// Reads one line, without its line end.
pub fn parse(line: &[u8]) -> Result<Entry, Malformed> {
    if line.len() > LINE_BYTES_MAX {
        return Err(Malformed::TooLong);
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed::NotText)?;
    let rest = Cell::new(line.trim_end_matches(['\r', '\n']));
    let next = || field(&rest).ok_or(Malformed::Fields);

    let (address, _ident, _user) = (next()?, next()?, next()?);
    let (time, request, status, size) = (next()?, next()?, next()?, next()?);
    let agent = if rest.get().is_empty() {
        None
    } else {
        let (_referer, agent) = (next()?, next()?);
        Some(agent.to_owned())
    };
    if !rest.get().is_empty() {
        return Err(Malformed::Fields);
    }

    let at = OffsetDateTime::parse(time, TIME).map_err(|_| Malformed::Time)?;
    let at_seconds = u64::try_from(at.unix_timestamp()).map_err(|_| Malformed::Time)?;
    if !matches!(status.parse::<u16>(), Ok(100..=599)) {
        return Err(Malformed::Status);
    }
    if size != "-" && size.parse::<u64>().is_err() {
        return Err(Malformed::Size);
    }
    let path = target(request).ok_or(Malformed::Request)?.to_owned();
    let visitor = Visitor { address: address.to_owned(), agent };
    Ok(Entry { at_ms: at_seconds * 1_000, visitor, path })
}

/// The target of `GET /path HTTP/1.1`; servers log `-` where a connection closed before it asked for anything.
fn target(request: &str) -> Option<&str> {
    let mut words = request.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
    let protocol = words.next().is_none_or(|word| word.starts_with("HTTP/"));
    (is_method && !path.is_empty() && protocol && words.next().is_none()).then_some(path)
}

/// Takes the next field off `rest`: a word, `[...]`, or `"..."` with backslash escapes; what follows it must be one space or the end.
fn field<'a>(rest: &Cell<&'a str>) -> Option<&'a str> {
    let line = rest.get();
    let (text, after) = match line.as_bytes().first()? {
        b'[' => line[1..].split_once(']')?,
        b'"' => {
            let end = closing_quote(&line.as_bytes()[1..])?;
            (&line[1..=end], &line[end + 2..])
        }
        _ => line.split_at(line.find(' ').unwrap_or(line.len())),
    };
    rest.set(match after.strip_prefix(' ') {
        Some(more) if !more.is_empty() => more,
        None if after.is_empty() => after,
        _ => return None,
    });
    Some(text)
}

/// Offset of the first quote that no backslash escapes.
fn closing_quote(bytes: &[u8]) -> Option<usize> {
    let mut escaped = false;
    bytes.iter().position(|&byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str =
        r#"192.0.2.7 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326"#;

    fn why(line: &str) -> Malformed {
        parse(line.as_bytes()).expect_err(line)
    }

    #[test]
    fn common_line_has_no_agent_and_its_offset_counts() {
        let entry = parse(COMMON.as_bytes()).unwrap();
        assert_eq!(entry.at_ms, 971_211_336_000);
        assert_eq!(entry.path, "/apache_pb.gif");
        assert_eq!(entry.visitor, Visitor { address: "192.0.2.7".into(), agent: None });
    }

    #[test]
    fn combined_line_tells_agents_apart_and_keeps_escapes() {
        let line = format!(r#"{COMMON} "http://example.com/a" "Moz\"illa \\""#);
        assert_eq!(parse(line.as_bytes()).unwrap().visitor.agent.unwrap(), r#"Moz\"illa \\"#);
        assert_eq!(parse(format!("{line}\r\n").as_bytes()).unwrap().at_ms, 971_211_336_000);
        let empty = format!(r#"{COMMON} "-" """#);
        assert_eq!(parse(empty.as_bytes()).unwrap().visitor.agent.unwrap(), "");
    }

    #[test]
    fn bad_lines_are_told_why_and_never_panic() {
        for (line, reason) in [
            ("", Malformed::Fields),
            ("hello", Malformed::Fields),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0"#, Malformed::Fields),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700 "GET / HTTP/1.0" 200 5"#, Malformed::Fields),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0"200 5"#, Malformed::Fields),
            (r#"192.0.2.7 - - [32/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 5"#, Malformed::Time),
            (r#"192.0.2.7 - - [10/Oct/1869:13:55:36 -0700] "GET / HTTP/1.0" 200 5"#, Malformed::Time),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "-" 408 -"#, Malformed::Request),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "\x16\x03 \x01" 400 0"#, Malformed::Request),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 99 5"#, Malformed::Status),
            (r#"192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 x"#, Malformed::Size),
        ] {
            assert_eq!(why(line), reason, "{line}");
        }
        assert_eq!(why(&format!(r#"{COMMON} "-""#)), Malformed::Fields);
        assert_eq!(why(&format!(r#"{COMMON} "-" "agent" more"#)), Malformed::Fields);
        assert_eq!(why(&format!(r#"{COMMON} "-" "never closed"#)), Malformed::Fields);
        assert_eq!(why(&"x".repeat(LINE_BYTES_MAX + 1)), Malformed::TooLong);
        assert_eq!(parse(b"\xff\xfe"), Err(Malformed::NotText));
    }

    #[test]
    fn every_prefix_of_a_line_gives_an_answer() {
        let line = format!(r#"{COMMON} "-" "Mozillä \" 5.0""#);
        for end in 0..line.len() {
            let _ = parse(&line.as_bytes()[..end]);
        }
        assert!(parse(line.as_bytes()).is_ok());
    }
}
