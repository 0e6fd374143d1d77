//! Finds what must not be shown of a config file.
//!
//! An allow list: a value is shown only when its key is one of ours and is not for secrets, and so is every table around
//! it. Works on text that is not TOML, because that is when lines are shown: a lost quote or `=` must not lay a secret
//! open. When in doubt it hides. Imports `raw`, for the names of the keys.

use std::ops::Range;

use super::raw;
use super::read::is_variable;

/// Stands for what is hidden, whatever its length.
const HIDDEN: char = '…';

/// The parts of `text` that must not be shown, in order.
pub(super) fn find(text: &str) -> Vec<Range<usize>> {
    let mut scan = Scan {
        text,
        at: 0,
        found: Vec::new(),
        header: Vec::new(),
        frames: Vec::new(),
        key: Vec::new(),
        pending: Vec::new(),
        place: Place::Key,
        fresh: false,
    };
    scan.run();
    scan.found
}

/// The line at `line` with the `secret` parts hidden, and where `caret` then stands.
pub(super) fn line(
    text: &str,
    line: Range<usize>,
    caret: Range<usize>,
    secret: &[Range<usize>],
) -> (String, Range<usize>) {
    let mut shown = String::new();
    let (mut start, mut end) = (None, None);
    let mut hiding = false;
    for (offset, character) in text.get(line.clone()).unwrap_or_default().char_indices() {
        let position = line.start + offset;
        let hidden = secret.iter().any(|range| range.contains(&position));
        if position >= caret.start {
            // A caret that begins inside a hidden part begins at its mark.
            start = start.or(Some(if hidden && hiding { shown.len() - HIDDEN.len_utf8() } else { shown.len() }));
        }
        if position >= caret.end {
            end = end.or(Some(shown.len()));
        }
        match (hidden, hiding) {
            (true, true) => {}
            (true, false) => shown.push(HIDDEN),
            (false, _) => shown.push(character),
        }
        hiding = hidden;
    }
    let trimmed = shown.trim_end().len();
    let start = start.unwrap_or(trimmed);
    let end = end.unwrap_or(trimmed).max(start);
    (shown, start..end)
}

struct Scan<'t> {
    text: &'t str,
    at: usize,
    found: Vec<Range<usize>>,
    /// The `[table]` above.
    header: Vec<&'t str>,
    frames: Vec<Frame<'t>>,
    /// The key in front of the value, taken apart at its dots.
    key: Vec<&'t str>,
    /// Words that may turn out to be a key.
    pending: Vec<Word>,
    place: Place,
    /// Whether the value has not begun: what follows its first word without a comma is not part of it.
    fresh: bool,
}

struct Frame<'t> {
    closing: u8,
    key: Vec<&'t str>,
}

#[derive(Clone)]
struct Word {
    /// Without quotes.
    range: Range<usize>,
    /// Whether a dot stood in front.
    joined: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Key,
    Value,
}

impl Scan<'_> {
    fn run(&mut self) {
        let mut joined = false;
        self.read_header();
        while let Some(byte) = self.byte(0) {
            let dot = std::mem::take(&mut joined);
            match byte {
                b'\n' => {
                    self.at += 1;
                    self.flush();
                    if self.frames.is_empty() {
                        self.place = Place::Key;
                        self.key.clear();
                        self.read_header();
                    }
                }
                b' ' | b'\t' | b'\r' => {
                    self.at += 1;
                    joined = dot;
                }
                // YAML's way of writing it.
                b':' if self.place == Place::Key => self.at += 1,
                b'#' => {
                    let end = self.end_of_line();
                    self.found.push(self.at + 1..end);
                    self.at = end;
                }
                b'.' if self.place == Place::Key => {
                    self.at += 1;
                    joined = true;
                }
                b'=' => self.equals(),
                b'"' | b'\'' => {
                    let range = self.quoted(byte);
                    self.word(range, dot);
                }
                b'{' | b'[' => self.open(byte),
                b'}' | b']' => self.close(byte),
                b',' => self.comma(),
                _ => {
                    let range = self.bare();
                    self.word(range, dot);
                }
            }
        }
        self.flush();
    }

    /// `[a.b]` or `[[a]]` at the start of a line.
    fn read_header(&mut self) {
        let end = self.end_of_line();
        let line = self.text.get(self.at..end).unwrap_or_default();
        let Some(inside) = line.trim_start().strip_prefix('[') else { return };
        // Without its bracket it is no header, and may be anything.
        let Some((name, _)) = inside.trim_start_matches('[').split_once(']') else { return };
        self.header = name.split('.').map(|part| part.trim().trim_matches(['"', '\''])).collect();
        self.at += line.len() - inside.len() + (inside.len() - inside.trim_start_matches('[').len()) + name.len();
        while self.byte(0) == Some(b']') {
            self.at += 1;
        }
    }

    fn equals(&mut self) {
        self.at += 1;
        match self.pending.last() {
            // `=` inside a value, as at the end of base64.
            None => {}
            Some(last) => {
                let whole = self.pending.iter().skip(1).all(|word| word.joined);
                let words = if whole { std::mem::take(&mut self.pending) } else { vec![last.clone()] };
                self.key = words.iter().filter_map(|word| self.text.get(word.range.clone())).collect();
                if !whole {
                    self.pending.pop();
                    self.flush();
                }
                self.place = Place::Value;
                self.fresh = true;
            }
        }
    }

    fn open(&mut self, byte: u8) {
        self.at += 1;
        self.flush();
        let closing = if byte == b'{' { b'}' } else { b']' };
        self.frames.push(Frame { closing, key: std::mem::take(&mut self.key) });
        self.place = if byte == b'{' { Place::Key } else { Place::Value };
        self.fresh = byte == b'[';
        if byte == b'[' {
            // The elements are under the array's own key.
            self.key = self.frames.last_mut().map(|frame| std::mem::take(&mut frame.key)).unwrap_or_default();
        }
    }

    fn close(&mut self, byte: u8) {
        self.at += 1;
        self.flush();
        if self.frames.last().is_some_and(|frame| frame.closing == byte)
            && let Some(frame) = self.frames.pop()
        {
            if byte == b'}' {
                self.key = frame.key;
            }
            self.place = Place::Value;
        }
    }

    fn comma(&mut self) {
        self.at += 1;
        self.flush();
        self.fresh = self.frames.last().is_some_and(|frame| frame.closing == b']');
        if self.frames.last().is_some_and(|frame| frame.closing == b'}') {
            self.place = Place::Key;
            self.key.clear();
        }
    }

    /// A string or a bare word: part of a key, or of a value.
    fn word(&mut self, range: Range<usize>, joined: bool) {
        let word = self.text.get(range.clone()).unwrap_or_default();
        if self.place == Place::Key {
            self.pending.push(Word { range, joined });
            return;
        }
        let fresh = std::mem::take(&mut self.fresh);
        if self.frames.last().is_some_and(|frame| frame.closing == b']') {
            // An array that lost its bracket: the next line's key is a word in it.
            self.pending = vec![Word { range: range.clone(), joined: false }];
        }
        let misplaced = self.key.last() == Some(&"env") && !is_variable(word);
        // No value of ours has several lines: a string that does has swallowed them.
        if fresh && self.may_show() && !misplaced && !word.contains('\n') {
            self.hide_in_url(range);
        } else if !raw::is_key(word) || self.is_quoted(&range) {
            self.found.push(range);
        }
    }

    /// A bare word may be the key of the next line; a text may be a secret, even one like "password".
    fn is_quoted(&self, word: &Range<usize>) -> bool {
        let before = word.start.checked_sub(1).and_then(|at| self.text.as_bytes().get(at));
        matches!(before, Some(b'"' | b'\''))
    }

    /// Ends a run of words that was no key: only names that are ours may be shown.
    fn flush(&mut self) {
        for word in std::mem::take(&mut self.pending) {
            let known = self.text.get(word.range.clone()).is_some_and(raw::is_key);
            if self.place == Place::Key && !known {
                self.found.push(word.range);
            }
        }
    }

    /// Userinfo and query of a URL, wherever it stands.
    fn hide_in_url(&mut self, range: Range<usize>) {
        let text = self.text.get(range.clone()).unwrap_or_default();
        let host = text.find("://").map_or(0, |scheme| scheme + 3);
        if let Some(at) = text.rfind('@').filter(|at| *at > host) {
            self.found.push(range.start + host..range.start + at);
        }
        if let Some(query) = text.find(['?', '#']) {
            self.found.push(range.start + query + 1..range.end);
        }
    }

    fn may_show(&self) -> bool {
        let Some((name, around)) = self.key.split_last() else { return false };
        if matches!(*name, "env" | "file") {
            return true;
        }
        let frames = self.frames.iter().flat_map(|frame| &frame.key);
        raw::is_plain(name)
            && frames.chain(around).all(|table| raw::is_table(table))
            // A header may have the user's own names, so this asks only for what is known to hold secrets; and the second
            // of `[auth.NAME]` is always the user's.
            && self.header.iter().enumerate().all(|(at, table)| {
                // `proxy` is a table here, and a key that may hold a password in `[upstream]`.
                at == 0 || (at == 1 && self.header.first() == Some(&"auth")) || !raw::holds_secrets(table)
            })
    }

    /// The inside of a string, up to its end or what must be taken for it. Leaves `at` behind the closing quote.
    fn quoted(&mut self, quote: u8) -> Range<usize> {
        let long = self.byte(1) == Some(quote) && self.byte(2) == Some(quote);
        let width = if long { 3 } else { 1 };
        let start = self.at + width;
        self.at = start;
        while let Some(byte) = self.byte(0) {
            let closed = (0..width).all(|ahead| self.byte(ahead) == Some(quote));
            if closed || (byte == b'\n' && !long) {
                break;
            }
            self.at += if byte == b'\\' && quote == b'"' && self.byte(1) != Some(b'\n') { 2 } else { 1 };
        }
        self.at = self.at.min(self.text.len());
        let range = start..self.at.max(start);
        if self.byte(0) == Some(quote) {
            self.at += width;
        }
        range
    }

    fn bare(&mut self) -> Range<usize> {
        let start = self.at;
        let ends: &[u8] = if self.place == Place::Key { b" \t\r\n=,#\"'{}[].:" } else { b" \t\r\n=,#\"'{}[]" };
        while self.byte(0).is_some_and(|byte| !ends.contains(&byte)) {
            self.at += 1;
        }
        start..self.at
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    fn end_of_line(&self) -> usize {
        self.text.get(self.at..).and_then(|rest| rest.find('\n')).map_or(self.text.len(), |length| self.at + length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        let secret = find(text);
        let mut shown = Vec::new();
        let mut start = 0;
        for part in text.split('\n') {
            shown.push(line(text, start..start + part.len(), start..start, &secret).0);
            start += part.len() + 1;
        }
        shown.join("\n")
    }

    #[test]
    fn plain_settings_are_shown() {
        for text in [
            "[proxy]\nlisten = [\"127.0.0.1:8080\", \"[::1]:8080\"]\nmax_connections = 12",
            "[[route]]\nupstream = \"https://abc.example/prod\"\nmethods = [\n  \"GET\",\n]",
            "[auth.iam]\nassume_role = { arn = \"arn:aws:iam::1:role/x\", duration = \"1h\" }",
            "[auth.password]\nregion = \"eu-west-1\"",
            "client_secret = { env = \"NAME\" }\n[route.request_headers]\nset = { x-api-key = { file = \"key\" } }",
            "listen = 127.0.0.1:8080",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn values_that_may_be_secret_are_hidden_in_whatever_shape() {
        for (text, shown) in [
            ("client_secret = \"hunter2\"", "client_secret = \"…\""),
            ("client_secret = 'hunter2'", "client_secret = '…'"),
            ("client_secret = hunter2", "client_secret = …"),
            ("client_secret = { value = \"hunter2\" }", "client_secret = { value = \"…\" }"),
            ("client_secret = { name = \"hunter2\" }", "client_secret = { name = \"…\" }"),
            ("client_secret.value = \"hunter2\"", "client_secret.value = \"…\""),
            ("client_secert = \"hunter2\"", "client_secert = \"…\""),
            ("client_secret \"hunter2\"", "client_secret \"…\""),
            ("client_secret hunter2", "client_secret …"),
            ("client_secret = \"hunter2", "client_secret = \"…"),
            ("client_secret = \"a\"hunter2\"", "client_secret = \"…\"…\""),
            ("client_secret = \"\"\"\nhunter2\n\"\"\"", "client_secret = \"\"\"\n…\n\"\"\""),
            ("set = { x-team = \"hunter2\" }", "set = { x-team = \"…\" }"),
            ("[route.request_headers.set]\nname = \"hunter2\"", "[route.request_headers.set]\nname = \"…\""),
            ("[auth.a.client_secret]\nname = \"hunter2\"", "[auth.a.client_secret]\nname = \"…\""),
            ("params = { scope = \"hunter2\" }", "params = { scope = \"…\" }"),
            ("region = \"x\" # was hunter2", "region = \"x\" #…"),
            ("upstream = \"https://me:hunter2@host/x\"", "upstream = \"https://…@host/x\""),
            ("upstream = \"https://host/x?k=hunter2\"", "upstream = \"https://host/x?…\""),
            ("upstream = \"me:hunter2@host\"", "upstream = \"…@host\""),
            ("scopes = [\"a\"\nclient_secret = \"hunter2\"", "scopes = [\"a\"\nclient_secret = \"…\""),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    #[test]
    #[expect(clippy::string_slice, reason = "the text is ASCII")]
    fn no_slip_of_the_finger_lays_a_secret_open() {
        let text = "[auth.a]\nkind = \"client-credentials\"\nscopes = [\"x\"]\nclient_secret = { value = \"hunter2\" }\n\
                    [[route]]\nname = \"r\"\n[route.request_headers]\nset = { x-api-key = 'hunter2', x-b = \"c\" }\n";
        for at in 0..=text.len() {
            for insert in ["", "\"", "'", "=", "{", "}", "[", "]", ",", "\n", "#", ".", " ", "\\", "\"\"\"", "é"] {
                for remove in [0, 1, 4] {
                    let end = (at + remove).min(text.len());
                    let slip = [&text[..at], insert, &text[end..]].concat();
                    assert!(!masked(&slip).contains("hunter2"), "{slip}\n---\n{}", masked(&slip));
                }
            }
        }
    }
}
