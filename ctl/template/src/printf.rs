//! `printf`: the format and which argument each of its verbs takes.

use crate::print::{Buf, display};
use crate::value::{Val, type_name};
use crate::verbs::{Flags, argument};

/// Beyond this, Go takes no width, precision or index.
const LARGEST: u64 = 1_000_000;

/// Writes arguments as a format of Go's `fmt` says.
pub(crate) fn printf(buf: &mut Buf, format: &str, args: &[Val<'_>]) {
    Printf { buf, format, args, pos: 0, next: 0, reordered: false, good: true }.run();
}

struct Printf<'f, 'a> {
    buf: &'f mut Buf,
    format: &'f str,
    args: &'f [Val<'a>],
    /// How much of the format is done.
    pos: usize,
    /// The argument that comes next.
    next: usize,
    /// Whether the format chose arguments by their index.
    reordered: bool,
    /// Whether the index of the verb that is read names an argument.
    good: bool,
}

impl<'f> Printf<'f, '_> {
    fn run(mut self) {
        while let Some(length) = self.rest().find('%') {
            let plain = &self.rest()[..length];
            self.buf.push_str(plain);
            self.pos += length + 1;
            self.verb();
        }
        let rest = self.rest();
        self.buf.push_str(rest);
        if !self.reordered {
            self.extra();
        }
    }

    fn rest(&self) -> &'f str {
        &self.format[self.pos..]
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest().starts_with(c);
        if found {
            self.pos += c.len_utf8();
        }
        found
    }

    /// Reads what follows a `%` and writes what it stands for.
    fn verb(&mut self) {
        self.good = true;
        let flags = self.options();
        let Some(verb) = self.rest().chars().next() else {
            self.buf.push_str("%!(NOVERB)");
            return;
        };
        self.pos += verb.len_utf8();
        if verb == '%' {
            self.buf.push('%');
        } else if !self.good {
            self.complain(verb, "BADINDEX");
        } else if let Some(arg) = self.args.get(self.next) {
            self.next += 1;
            argument(self.buf, flags, verb, arg.get());
        } else {
            self.complain(verb, "MISSING");
        }
    }

    /// Reads flags, width and precision, and the index of the argument, which
    /// may stand before any of the latter.
    fn options(&mut self) -> Flags {
        let mut flags = self.flags();
        let mut indexed = self.index();
        if self.eat('*') {
            match self.star() {
                Some(width) => {
                    flags.minus |= width < 0;
                    flags.width = usize::try_from(width.unsigned_abs()).ok();
                }
                None => self.buf.push_str("%!(BADWIDTH)"),
            }
            indexed = false;
        } else {
            flags.width = self.number();
            self.good &= !(indexed && flags.width.is_some());
        }
        if self.eat('.') {
            self.good &= !indexed;
            indexed = self.index();
            if self.eat('*') {
                flags.precision = self.star().and_then(|precision| usize::try_from(precision).ok());
                if flags.precision.is_none() {
                    self.buf.push_str("%!(BADPREC)");
                }
                indexed = false;
            } else {
                flags.precision = Some(self.number().unwrap_or(0));
            }
        }
        if !indexed {
            self.index();
        }
        flags
    }

    fn flags(&mut self) -> Flags {
        let mut flags = Flags::default();
        while let Some(c) = self.rest().chars().next() {
            match c {
                '#' => flags.sharp = true,
                '0' => flags.zero = true,
                '+' => flags.plus = true,
                '-' => flags.minus = true,
                ' ' => flags.space = true,
                _ => break,
            }
            self.pos += 1;
        }
        flags
    }

    /// Reads a number; one that is too large takes the rest of the format
    /// with it.
    fn number(&mut self) -> Option<usize> {
        let mut number = None;
        while let Some(digit) = self.rest().chars().next().and_then(|c| c.to_digit(10)) {
            let so_far = number.unwrap_or(0);
            if so_far > LARGEST {
                self.pos = self.format.len();
                return None;
            }
            number = Some(so_far * 10 + u64::from(digit));
            self.pos += 1;
        }
        number.and_then(|number| usize::try_from(number).ok())
    }

    /// Takes a width or a precision from the arguments.
    fn star(&mut self) -> Option<i64> {
        let arg = self.args.get(self.next)?;
        self.next += 1;
        arg.get().as_i64().filter(|number| number.unsigned_abs() <= LARGEST)
    }

    /// Reads the index of the next argument, as in `%[2]d`; whether there is
    /// one that can be read.
    fn index(&mut self) -> bool {
        let Some(rest) = self.rest().strip_prefix('[') else { return false };
        self.reordered = true;
        let Some((digits, _)) = rest.split_once(']') else {
            self.pos += 1;
            self.good = false;
            return false;
        };
        self.pos += digits.len() + 2;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse::<usize>().ok().filter(|_| is_number);
        match number.and_then(|number| number.checked_sub(1)) {
            Some(index) if index < self.args.len() => self.next = index,
            _ => self.good = false,
        }
        number.is_some()
    }

    fn complain(&mut self, verb: char, what: &str) {
        self.buf.push_str(&format!("%!{verb}({what})"));
    }

    /// Names the arguments that no verb took.
    fn extra(&mut self) {
        for (index, arg) in self.args.iter().enumerate().skip(self.next) {
            self.buf.push_str(if index == self.next { "%!(EXTRA " } else { ", " });
            if !arg.is_nil() {
                self.buf.push_str(type_name(arg.get()));
                self.buf.push('=');
            }
            display(self.buf, arg.get());
        }
        if self.next < self.args.len() {
            self.buf.push(')');
        }
    }
}
