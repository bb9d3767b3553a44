//! The tokens of a template, as Go's lexer cuts them.

use crate::text::is_print;

const LEFT: &str = "{{";
const RIGHT: &str = "}}";
/// Bytes of a trim marker: a hyphen and the space beside it.
const MARKER: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    LeftDelim,
    RightDelim,
    LeftParen,
    RightParen,
    /// Separates operands.
    Space,
    /// `=`
    Assign,
    /// `:=`
    Declare,
    Pipe,
    /// Any other ASCII character that prints.
    Char,
    CharConstant,
    Number,
    /// A string in double quotes, with them.
    Quoted,
    /// A string in backquotes, with them.
    Raw,
    Bool,
    /// A field with its dot.
    Field,
    /// A variable with its `$`.
    Variable,
    Identifier,
    // Keywords.
    Dot,
    Nil,
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Range,
    Template,
    With,
    /// What can't be cut stands here; nothing follows.
    Error,
    Eof,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'t> {
    pub(crate) kind: Kind,
    pub(crate) pos: usize,
    pub(crate) text: &'t str,
}

impl Token<'_> {
    pub(crate) fn end(&self) -> usize {
        self.pos + self.text.len()
    }

    /// How an error names it.
    pub(crate) fn describe(&self) -> String {
        match self.kind {
            Kind::Eof => "EOF".to_owned(),
            kind if kind.is_keyword() => format!("<{}>", self.text),
            _ => match self.text.char_indices().nth(10) {
                Some((cut, _)) => format!("{:?}...", &self.text[..cut]),
                None => format!("{:?}", self.text),
            },
        }
    }
}

impl Kind {
    fn is_keyword(self) -> bool {
        use Kind as K;
        matches!(
            self,
            K::Dot
                | K::Nil
                | K::Block
                | K::Break
                | K::Continue
                | K::Define
                | K::Else
                | K::End
                | K::If
                | K::Range
                | K::Template
                | K::With
        )
    }

    fn of_word(word: &str) -> Self {
        match word {
            "true" | "false" => Kind::Bool,
            "nil" => Kind::Nil,
            "block" => Kind::Block,
            "break" => Kind::Break,
            "continue" => Kind::Continue,
            "define" => Kind::Define,
            "else" => Kind::Else,
            "end" => Kind::End,
            "if" => Kind::If,
            "range" => Kind::Range,
            "template" => Kind::Template,
            "with" => Kind::With,
            _ => Kind::Identifier,
        }
    }
}

/// All tokens of a template.
pub(crate) struct Tokens<'t> {
    /// The last one, and no other, is [`Kind::Eof`] or [`Kind::Error`].
    pub(crate) list: Vec<Token<'t>>,
    /// What is wrong at [`Kind::Error`].
    pub(crate) error: String,
}

/// Cuts a template into tokens.
pub(crate) fn lex(input: &str) -> Tokens<'_> {
    let mut lexer = Lexer { input, start: 0, pos: 0, parens: 0, list: Vec::new() };
    let outcome = lexer.run();
    let kind = if outcome.is_ok() { Kind::Eof } else { Kind::Error };
    lexer.emit(kind);
    Tokens { list: lexer.list, error: outcome.err().unwrap_or_default() }
}

struct Lexer<'t> {
    input: &'t str,
    /// Where the token that is being cut begins, and how far it goes so far.
    start: usize,
    pos: usize,
    /// Parentheses that are open.
    parens: usize,
    list: Vec<Token<'t>>,
}

impl<'t> Lexer<'t> {
    fn run(&mut self) -> Result<(), String> {
        while self.text() {
            self.left()?;
        }
        Ok(())
    }

    fn rest(&self) -> &'t str {
        &self.input[self.pos..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next_if(&mut self, wanted: impl Fn(char) -> bool) -> bool {
        match self.peek() {
            Some(c) if wanted(c) => {
                self.pos += c.len_utf8();
                true
            }
            _ => false,
        }
    }

    fn skip_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.next_if(&wanted) {}
    }

    fn emit(&mut self, kind: Kind) {
        let text = &self.input[self.start..self.pos];
        self.list.push(Token { kind, pos: self.start, text });
        self.start = self.pos;
    }

    /// Takes the text up to the next action; whether there is one.
    fn text(&mut self) -> bool {
        let rest = self.rest();
        let found = rest.find(LEFT);
        let mut text = &rest[..found.unwrap_or(rest.len())];
        self.pos += text.len();
        if found.is_some() && trims_left(&self.rest()[LEFT.len()..]) {
            text = text.trim_end_matches(is_space);
        }
        if !text.is_empty() {
            self.list.push(Token { kind: Kind::Text, pos: self.start, text });
        }
        self.start = self.pos;
        found.is_some()
    }

    /// Takes an action or a comment, which begins here.
    fn left(&mut self) -> Result<(), String> {
        let delimiter = self.pos;
        self.pos += LEFT.len();
        if trims_left(self.rest()) {
            self.pos += MARKER;
        }
        if self.rest().starts_with("/*") {
            return self.comment();
        }
        self.list.push(Token { kind: Kind::LeftDelim, pos: delimiter, text: LEFT });
        self.parens = 0;
        loop {
            self.start = self.pos;
            if let Some(trim) = self.at_right() {
                if self.parens > 0 {
                    return Err("unclosed left paren".to_owned());
                }
                self.right(trim, true);
                return Ok(());
            }
            self.inside()?;
        }
    }

    fn comment(&mut self) -> Result<(), String> {
        self.start = self.pos;
        self.pos += 2;
        let length = self.rest().find("*/").ok_or("unclosed comment")?;
        self.pos += length + 2;
        let trim = self.at_right().ok_or("comment ends before closing delimiter")?;
        self.right(trim, false);
        Ok(())
    }

    /// Whether a right delimiter follows, and if so whether it trims.
    fn at_right(&self) -> Option<bool> {
        let rest = self.rest();
        if rest.starts_with(RIGHT) {
            return Some(false);
        }
        let marked = rest.strip_prefix(is_space).and_then(|rest| rest.strip_prefix('-'));
        marked.filter(|rest| rest.starts_with(RIGHT)).map(|_| true)
    }

    fn right(&mut self, trim: bool, emit: bool) {
        if trim {
            self.pos += MARKER;
        }
        self.start = self.pos;
        self.pos += RIGHT.len();
        if emit {
            self.emit(Kind::RightDelim);
        }
        if trim {
            self.skip_while(is_space);
        }
        self.start = self.pos;
    }

    /// Takes one token of an action.
    fn inside(&mut self) -> Result<(), String> {
        let c = self.peek().ok_or("unclosed action")?;
        self.pos += c.len_utf8();
        match c {
            c if is_space(c) => self.space(),
            '=' => self.emit(Kind::Assign),
            ':' if self.next_if(|c| c == '=') => self.emit(Kind::Declare),
            ':' => return Err("expected :=".to_owned()),
            '|' => self.emit(Kind::Pipe),
            '"' => self.quoted('"', Kind::Quoted, "unterminated quoted string")?,
            '\'' => self.quoted('\'', Kind::CharConstant, "unterminated character constant")?,
            '`' => self.raw()?,
            '$' => self.name(Kind::Variable)?,
            '.' if self.peek().is_some_and(|c| c.is_ascii_digit()) => self.number()?,
            '.' => self.name(Kind::Field)?,
            '+' | '-' | '0'..='9' => self.number()?,
            c if is_alphanumeric(c) => self.word()?,
            '(' => {
                self.parens += 1;
                self.emit(Kind::LeftParen);
            }
            ')' if self.parens == 0 => return Err("unexpected right paren".to_owned()),
            ')' => {
                self.parens -= 1;
                self.emit(Kind::RightParen);
            }
            '!'..='~' => self.emit(Kind::Char),
            c => return Err(format!("unrecognized character in action: {}", code_point(c))),
        }
        Ok(())
    }

    fn space(&mut self) {
        self.skip_while(is_space);
        // The last one may belong to ` -}}`. If it is the only one, the caller
        // has seen that.
        if self.rest().strip_prefix('-').is_some_and(|rest| rest.starts_with(RIGHT)) {
            self.pos -= 1;
        }
        self.emit(Kind::Space);
    }

    fn quoted(&mut self, quote: char, kind: Kind, unterminated: &str) -> Result<(), String> {
        loop {
            let c = self.peek().filter(|&c| c != '\n').ok_or(unterminated)?;
            self.pos += c.len_utf8();
            if c == '\\' && !self.next_if(|c| c != '\n') {
                return Err(unterminated.to_owned());
            }
            if c == quote {
                self.emit(kind);
                return Ok(());
            }
        }
    }

    fn raw(&mut self) -> Result<(), String> {
        let length = self.rest().find('`').ok_or("unterminated raw quoted string")?;
        self.pos += length + 1;
        self.emit(Kind::Raw);
        Ok(())
    }

    /// Takes a field or a variable, whose first character is taken already.
    fn name(&mut self, kind: Kind) -> Result<(), String> {
        self.skip_while(is_alphanumeric);
        self.terminated()?;
        let bare = self.pos == self.start + 1;
        self.emit(if bare && kind == Kind::Field { Kind::Dot } else { kind });
        Ok(())
    }

    fn word(&mut self) -> Result<(), String> {
        self.skip_while(is_alphanumeric);
        self.terminated()?;
        self.emit(Kind::of_word(&self.input[self.start..self.pos]));
        Ok(())
    }

    /// Refuses what can't follow a name.
    fn terminated(&self) -> Result<(), String> {
        match self.peek() {
            Some(c) if is_space(c) || matches!(c, '.' | ',' | '|' | ':' | '(' | ')') => Ok(()),
            Some(c) if !self.rest().starts_with(RIGHT) => {
                Err(format!("bad character {}", code_point(c)))
            }
            _ => Ok(()),
        }
    }

    fn number(&mut self) -> Result<(), String> {
        self.pos = self.start;
        let mut good = self.scan_number();
        if good && matches!(self.peek(), Some('+' | '-')) {
            // A complex number, such as `1+2i`; nothing else goes on like this.
            good = self.scan_number() && self.input[..self.pos].ends_with('i');
        }
        if !good {
            return Err(format!("bad number syntax: {:?}", &self.input[self.start..self.pos]));
        }
        self.emit(Kind::Number);
        Ok(())
    }

    /// Takes what looks like a number; whether it ends as one.
    fn scan_number(&mut self) -> bool {
        self.next_if(|c| matches!(c, '+' | '-'));
        let mut radix = 10;
        if self.next_if(|c| c == '0') {
            if self.next_if(|c| matches!(c, 'x' | 'X')) {
                radix = 16;
            } else if self.next_if(|c| matches!(c, 'o' | 'O')) {
                radix = 8;
            } else if self.next_if(|c| matches!(c, 'b' | 'B')) {
                radix = 2;
            }
        }
        let digit = |c: char| c == '_' || c.is_digit(radix);
        self.skip_while(digit);
        if self.next_if(|c| c == '.') {
            self.skip_while(digit);
        }
        let exponent = match radix {
            10 => self.next_if(|c| matches!(c, 'e' | 'E')),
            16 => self.next_if(|c| matches!(c, 'p' | 'P')),
            _ => false,
        };
        if exponent {
            self.next_if(|c| matches!(c, '+' | '-'));
            self.skip_while(|c| c == '_' || c.is_ascii_digit());
        }
        self.next_if(|c| c == 'i');
        !self.next_if(is_alphanumeric)
    }
}

/// Whether a left delimiter before this trims the text before it.
fn trims_left(rest: &str) -> bool {
    rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(is_space))
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// A character as Go's `%#U` shows it.
fn code_point(c: char) -> String {
    let number = format!("U+{:04X}", u32::from(c));
    if is_print(c) { format!("{number} '{c}'") } else { number }
}
