//! Text cut into pieces as the pattern of `o200k_base` cuts it; tokens are made within pieces.
//!
//! In: text and the classes of characters. Out: its pieces, which together are the text. The pattern (from tiktoken's
//! `openai_public.py`; its alternatives are tried in this order):
//!
//! ```text
//! [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
//! [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
//! \p{N}{1,3}
//!  ?[^\s\p{L}\p{N}]+[\r\n/]*
//! \s*[\r\n]+
//! \s+(?!\S)
//! \s+
//! ```
//!
//! By hand because a regular expression would bring tables of 100 KB and automata; here a piece takes one or two looks at
//! each of its characters.

/// What the pattern asks of a character: its general category, or that it is white space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Class {
    /// `\p{Lu}`, `\p{Lt}`
    Upper,
    /// `\p{Ll}`
    Lower,
    /// `\p{Lm}`, `\p{Lo}`
    Letter,
    /// `\p{M}`
    Mark,
    /// `\p{N}`
    Number,
    /// `\s`
    Space,
    Other,
}

impl Class {
    const ALL: [Self; 7] = [Self::Upper, Self::Lower, Self::Letter, Self::Mark, Self::Number, Self::Space, Self::Other];

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
    fn begins_word(self) -> bool {
        matches!(self, Self::Upper | Self::Letter | Self::Mark)
    }

    /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
    fn ends_word(self) -> bool {
        matches!(self, Self::Lower | Self::Letter | Self::Mark)
    }

    /// `[^\s\p{L}\p{N}]`
    fn is_sign(self) -> bool {
        matches!(self, Self::Mark | Self::Other)
    }
}

/// The class of every character.
pub(super) struct Classes {
    /// Where the class changes: the first character, then three bits of its class; ascending, from character 0 on.
    runs: Box<[u32]>,
}

impl Classes {
    /// Classes as [`Self::runs`] has them.
    pub(super) fn new(runs: Box<[u32]>) -> Self {
        Self { runs }
    }

    pub(super) fn of(&self, char: char) -> Class {
        match char {
            'a'..='z' => Class::Lower,
            'A'..='Z' => Class::Upper,
            '0'..='9' => Class::Number,
            ' ' | '\t'..='\r' => Class::Space,
            '\0'..='\x7f' => Class::Other,
            _ => {
                let after = self.runs.partition_point(|run| run >> 3 <= u32::from(char));
                let run = self.runs[after.saturating_sub(1)];
                Class::ALL.get((run & 7) as usize).copied().unwrap_or(Class::Other)
            }
        }
    }

    /// The text's first piece and the rest; `None` at its end.
    pub(super) fn cut<'a>(&self, text: &'a str) -> Option<(&'a str, &'a str)> {
        let first = text.chars().next()?;
        let at = Scan { text, classes: self };
        let length = at.word(first).unwrap_or_else(|| match self.of(first) {
            Class::Number => at.run(0, 3, |_, class| class == Class::Number),
            Class::Space if first == ' ' => at.signs(1).unwrap_or_else(|| at.space()),
            Class::Space => at.space(),
            _ => at.signs(0).unwrap_or(first.len_utf8()),
        });
        Some(text.split_at(length))
    }
}

/// The pattern's alternatives at the beginning of a text. What they give is the length of a match in bytes.
struct Scan<'a> {
    text: &'a str,
    classes: &'a Classes,
}

impl Scan<'_> {
    /// Words: the first two alternatives, each with the character before the word where there may be one, then without.
    fn word(&self, first: char) -> Option<usize> {
        let class = self.classes.of(first);
        let before = match class {
            Class::Upper | Class::Lower | Class::Letter | Class::Number => None,
            _ => (!is_newline(first)).then(|| first.len_utf8()),
        };
        let starts = || before.into_iter().chain((class != Class::Number).then_some(0));
        let end = starts().find_map(|start| self.lower(start)).or_else(|| starts().find_map(|start| self.upper(start)));
        end.map(|end| end + contraction(&self.text[end..]))
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`: the first part gives back characters until the
    /// second has one, which is then the last one that both may have.
    fn lower(&self, start: usize) -> Option<usize> {
        let mut end = None;
        let mut position = start;
        for char in self.text[start..].chars() {
            let class = self.classes.of(char);
            if !class.begins_word() {
                if class.ends_word() {
                    return Some(self.run(position, usize::MAX, |_, class| class.ends_word()));
                }
                break;
            }
            position += char.len_utf8();
            if class.ends_word() {
                end = Some(position);
            }
        }
        end
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+`, where [`Self::lower`] found nothing: no lower letter follows.
    fn upper(&self, start: usize) -> Option<usize> {
        let end = self.run(start, usize::MAX, |_, class| class.begins_word());
        (end > start).then_some(end)
    }

    /// `[^\s\p{L}\p{N}]+[\r\n/]*`
    fn signs(&self, start: usize) -> Option<usize> {
        let end = self.run(start, usize::MAX, |_, class| class.is_sign());
        (end > start).then(|| self.run(end, usize::MAX, |char, _| is_newline(char) || char == '/'))
    }

    /// White space at the beginning: to its last end of line; else all at the end of the text, and all but the last
    /// character where something follows.
    fn space(&self) -> usize {
        let end = self.run(0, usize::MAX, |_, class| class == Class::Space);
        let space = &self.text[..end];
        match space.rfind(is_newline) {
            Some(newline) => newline + 1,
            None if end == self.text.len() => end,
            None => space.char_indices().next_back().map(|(last, _)| last).filter(|last| *last > 0).unwrap_or(end),
        }
    }

    /// Where the characters from `start` on, at most so many, end to be those that are meant.
    fn run(&self, start: usize, most: usize, meant: impl Fn(char, Class) -> bool) -> usize {
        let run = self.text[start..].chars().take(most).take_while(|char| meant(*char, self.classes.of(*char)));
        start + run.map(char::len_utf8).sum::<usize>()
    }
}

fn is_newline(char: char) -> bool {
    matches!(char, '\r' | '\n')
}

/// Bytes of `(?i:'s|'t|'re|'ve|'m|'ll|'d)?`.
fn contraction(rest: &str) -> usize {
    let Some(rest) = rest.strip_prefix('\'') else { return 0 };
    let mut chars = rest.chars();
    match (chars.next(), chars.next()) {
        (Some('s' | 'S' | 't' | 'T' | 'm' | 'M' | 'd' | 'D'), _) => 2,
        // The long s, which is an s when cases are folded.
        (Some('ſ'), _) => 3,
        (Some('r' | 'R' | 'v' | 'V'), Some('e' | 'E')) | (Some('l' | 'L'), Some('l' | 'L')) => 3,
        _ => 0,
    }
}
