//! The JSON scanner: walks a text once, checks the grammar of RFC 8259 and remembers only which brackets are open. It builds
//! no tree and does not recurse, so a level of depth costs one bit and no stack frame.
//!
//! Accepted texts are UTF-8: bytes above ASCII are legal only in strings, and each string that has some is checked.

use wide::u8x16;

use crate::limits::Limits;
use crate::span::Span;

/// Why a scan stopped, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    pub(crate) cause: Cause,
    pub(crate) at: usize,
}

/// What the grammar refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    Syntax,
    NotUtf8,
    TooDeep,
}

/// A string token, quotes included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) span: Span,
    pub(crate) escaped: bool,
}

/// A position in a JSON text.
pub(crate) struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    depth_limit: usize,
    /// One bit for each open bracket: set for an object, clear for an array.
    objects: [u64; Limits::MAX_DEPTH / 64],
}

impl<'a> Scanner<'a> {
    /// Scans `span` of `bytes`; all positions it gives are positions in `bytes`.
    pub(crate) fn new(bytes: &'a [u8], span: Span, limits: &Limits) -> Self {
        Scanner {
            bytes: bytes.get(..span.end).unwrap_or(bytes),
            at: span.start,
            depth: 0,
            depth_limit: limits.depth.min(Limits::MAX_DEPTH),
            objects: [0; Limits::MAX_DEPTH / 64],
        }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn fault(&self, cause: Cause) -> Fault {
        Fault { cause, at: self.at }
    }

    /// Skips whitespace and returns the next byte without taking it.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Skips whitespace and takes `byte`.
    #[inline]
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.peek() != Some(byte) {
            return Err(self.fault(Cause::Syntax));
        }
        self.at += 1;
        Ok(())
    }

    /// Skips whitespace and takes `byte` if it is there.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    /// Checks that only whitespace is left.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.fault(Cause::Syntax)),
        }
    }

    /// Takes the `{` or `[` of a level that the caller walks itself.
    pub(crate) fn enter(&mut self, bracket: u8) -> Result<usize, Fault> {
        self.expect(bracket)?;
        self.deepen(bracket == b'{')?;
        Ok(self.at - 1)
    }

    /// Leaves a level whose closing bracket the caller has taken.
    pub(crate) fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// Takes a member's key and the colon after it.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<Token, Fault> {
        if self.peek() != Some(b'"') {
            return Err(self.fault(Cause::Syntax));
        }
        let token = self.string()?;
        self.expect(b':')?;
        Ok(token)
    }

    /// Takes one whole value of any kind.
    pub(crate) fn value(&mut self) -> Result<Span, Fault> {
        self.peek();
        let start = self.at;
        let floor = self.depth;
        while !self.begin_value()? || self.after_value(floor)? {}
        Ok(Span { start, end: self.at })
    }

    /// Takes a scalar, an empty object or array, or the tokens up to the first value inside one. Returns whether a value has
    /// ended.
    #[inline]
    fn begin_value(&mut self) -> Result<bool, Fault> {
        match self.peek() {
            Some(b'"') => {
                self.string()?;
            }
            Some(b'{') => {
                self.at += 1;
                self.deepen(true)?;
                if !self.take(b'}') {
                    self.key()?;
                    return Ok(false);
                }
                self.leave();
            }
            Some(b'[') => {
                self.at += 1;
                self.deepen(false)?;
                if !self.take(b']') {
                    return Ok(false);
                }
                self.leave();
            }
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.literal(b"true")?,
            Some(b'f') => self.literal(b"false")?,
            Some(b'n') => self.literal(b"null")?,
            _ => return Err(self.fault(Cause::Syntax)),
        }
        Ok(true)
    }

    /// Closes all levels that end here. Returns whether a value must follow; if not, the depth is back at `floor`.
    #[inline]
    fn after_value(&mut self, floor: usize) -> Result<bool, Fault> {
        while self.depth > floor {
            let object = self.in_object();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    if object {
                        self.key()?;
                    }
                    return Ok(true);
                }
                Some(b'}') if object => self.at += 1,
                Some(b']') if !object => self.at += 1,
                _ => return Err(self.fault(Cause::Syntax)),
            }
            self.leave();
        }
        Ok(false)
    }

    #[inline]
    fn deepen(&mut self, object: bool) -> Result<(), Fault> {
        if self.depth >= self.depth_limit {
            return Err(Fault { cause: Cause::TooDeep, at: self.at - 1 });
        }
        if let Some(word) = self.objects.get_mut(self.depth / 64) {
            let bit = 1 << (self.depth % 64);
            *word = if object { *word | bit } else { *word & !bit };
        }
        self.depth += 1;
        Ok(())
    }

    #[inline]
    fn in_object(&self) -> bool {
        let level = self.depth.saturating_sub(1);
        self.objects.get(level / 64).is_some_and(|word| word >> (level % 64) & 1 == 1)
    }

    /// Takes a string whose opening quote is next.
    #[inline]
    fn string(&mut self) -> Result<Token, Fault> {
        let start = self.at;
        self.at += 1;
        let mut ascii = self.run();
        let escaped = self.bytes.get(self.at) == Some(&b'\\');
        if escaped {
            ascii &= self.blocks()?;
            ascii &= self.run(); // what is left of it has no whole block
            while self.bytes.get(self.at) == Some(&b'\\') {
                self.at = self.escape(self.at)?;
                ascii &= self.run();
            }
        }
        if self.bytes.get(self.at) != Some(&b'"') {
            // A control character, or the text ends inside the string.
            return Err(self.fault(Cause::Syntax));
        }
        self.at += 1;
        let span = Span { start, end: self.at };
        if !ascii {
            utf8(self.bytes, span)?;
        }
        Ok(Token { span, escaped })
    }

    /// Takes bytes of a string up to the first special one. Returns whether they are ASCII; `false` may be a false alarm.
    #[inline]
    fn run(&mut self) -> bool {
        let run = Run::of(self.rest());
        self.at += run.len;
        run.ascii
    }

    /// Takes a string with escapes, block by block, up to its end, a control character, or the last whole block. Returns
    /// whether it is ASCII; `false` may be a false alarm.
    ///
    /// The distance between escapes is unpredictable, so taking the string run by run would cost a branch misprediction each.
    fn blocks(&mut self) -> Result<bool, Fault> {
        let mut ascii = true;
        while let Some(block) = self.rest().first_chunk() {
            let block = Block::of(block);
            ascii &= block.ascii;
            let start = self.at;
            self.at += Block::LEN;
            let mut special = block.special;
            while special != 0 {
                let first = special.trailing_zeros();
                let at = start + first as usize;
                if self.bytes.get(at) != Some(&b'\\') {
                    self.at = at;
                    return Ok(ascii);
                }
                special &= !(0b11 << first); // what is behind a backslash, maybe another one or a quote, is of its escape
                self.at = self.at.max(self.escape(at)?); // it may end in the next block
            }
        }
        Ok(ascii)
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Where the escape ends that begins at `at`.
    #[inline]
    fn escape(&self, at: usize) -> Result<usize, Fault> {
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            _ => self.unicode_escape(at),
        }
    }

    #[inline(never)]
    fn unicode_escape(&self, at: usize) -> Result<usize, Fault> {
        match self.bytes.get(at + 1..at + 6) {
            Some([b'u', digits @ ..]) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            _ => Err(Fault { cause: Cause::Syntax, at }),
        }
    }

    fn number(&mut self) -> Result<(), Fault> {
        if self.bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if self.bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.bytes.get(self.at) {
            self.at += 1;
        }
        if self.at == start { Err(self.fault(Cause::Syntax)) } else { Ok(()) }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Fault> {
        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(word) {
            return Err(self.fault(Cause::Syntax));
        }
        self.at += word.len();
        Ok(())
    }
}

fn utf8(bytes: &[u8], span: Span) -> Result<(), Fault> {
    match std::str::from_utf8(span.of(bytes)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault { cause: Cause::NotUtf8, at: span.start + error.valid_up_to() }),
    }
}

/// A run of plain string bytes: no quote, backslash or control character.
struct Run {
    len: usize,
    /// Whether all are ASCII. `false` may be a false alarm, because bytes just after the run are examined too.
    ascii: bool,
}

impl Run {
    /// The run at the front of `bytes`.
    #[inline]
    fn of(bytes: &[u8]) -> Run {
        let mut rest = bytes;
        let mut seen = u8x16::ZERO;
        while let Some((block, after)) = rest.split_first_chunk() {
            let block = u8x16::new(*block);
            let special = special_bytes(block).to_bitmask();
            seen |= block;
            if special != 0 {
                let len = bytes.len() - rest.len() + special.trailing_zeros() as usize;
                return Run { len, ascii: is_ascii(seen) };
            }
            rest = after;
        }
        let tail = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
        Run { len: bytes.len() - rest.len() + tail, ascii: is_ascii(seen) && rest.is_ascii() }
    }
}

/// A bit mask of the special bytes among as many as a register has bits.
struct Block {
    special: u64,
    ascii: bool,
}

impl Block {
    const LEN: usize = u64::BITS as usize;

    #[inline]
    fn of(bytes: &[u8; Block::LEN]) -> Block {
        let mut special = 0;
        let mut seen = u8x16::ZERO;
        for (number, part) in bytes.as_chunks().0.iter().enumerate() {
            let part = u8x16::new(*part);
            special |= u64::from(special_bytes(part).to_bitmask()) << (number * 16);
            seen |= part;
        }
        Block { special, ascii: is_ascii(seen) }
    }
}

fn is_special(byte: u8) -> bool {
    byte <= LAST_CONTROL || byte == b'"' || byte == b'\\'
}

/// A mask with all bits set in each byte that [`is_special`].
#[inline]
fn special_bytes(block: u8x16) -> u8x16 {
    let control = block.min(u8x16::splat(LAST_CONTROL)).simd_eq(block);
    control | block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\'))
}

#[inline]
fn is_ascii(block: u8x16) -> bool {
    block.to_bitmask() == 0 // the mask is of the highest bits
}

const LAST_CONTROL: u8 = 0x1f;
