//! The parser's part for what stands inside an action.

use crate::Error;
use crate::ast::{Command, Operand, Pipe, Span, Term};
use crate::functions::Function;
use crate::lex::{Kind, Token};
use crate::literal;
use crate::parse::Parser;

impl Parser<'_> {
    /// Declarations and commands up to a token of kind `end`, which is taken.
    pub(crate) fn pipeline(&mut self, context: &str, end: Kind) -> Result<Pipe, Error> {
        let start = self.peek_word().pos;
        let at = Span::new(start, start);
        let mut pipe = Pipe { at, names: Vec::new(), assign: false, commands: Vec::new() };
        self.declarations(&mut pipe, context)?;
        loop {
            let token = self.peek_word();
            if token.kind == end {
                self.take();
                break;
            }
            if !begins_operand(token.kind) {
                self.take();
                return Err(self.unexpected(token, context));
            }
            let command = self.command()?;
            pipe.at.end = command.at.end;
            pipe.commands.push(command);
        }
        if pipe.commands.is_empty() {
            return Err(self.fail(format!("missing value for {context}")));
        }
        for (index, command) in pipe.commands.iter().enumerate().skip(1) {
            if matches!(
                command.first.term,
                Term::Literal(_) | Term::Overflow | Term::Dot | Term::Nil
            ) {
                let stage = index + 1;
                let message = format!("non executable command in pipeline stage {stage}");
                return Err(self.fail(message));
            }
        }
        Ok(pipe)
    }

    /// `$x :=`, `$x =`, and in a range `$i, $x :=`
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), Error> {
        loop {
            let variable = self.peek_word();
            if variable.kind != Kind::Variable {
                return Ok(());
            }
            let mark = self.next;
            self.take();
            let next = self.peek_word();
            let last = matches!(next.kind, Kind::Assign | Kind::Declare);
            if !(last || next.kind == Kind::Char && next.text == ",") {
                self.next = mark;
                return Ok(());
            }
            self.take();
            self.variables.push(variable.text.to_owned());
            pipe.names.push(variable.text.to_owned());
            if last {
                pipe.assign = next.kind == Kind::Assign;
                return Ok(());
            }
            if context != "range" || pipe.names.len() > 1 {
                return Err(self.fail(format!("too many declarations in {context}")));
            }
            let next = self.peek_word().kind;
            if !matches!(next, Kind::Variable | Kind::RightDelim | Kind::RightParen) {
                return Err(self.fail("range can only initialize variables"));
            }
        }
    }

    /// Operands up to a pipe, which is taken, or up to the end of the action.
    fn command(&mut self) -> Result<Command, Error> {
        let start = self.peek_word().pos;
        let mut operands = Vec::new();
        loop {
            self.peek_word();
            operands.extend(self.operand()?);
            let token = self.peek();
            match token.kind {
                Kind::RightDelim | Kind::RightParen => break,
                Kind::Space => {
                    self.take();
                }
                Kind::Pipe => {
                    self.take();
                    break;
                }
                _ => {
                    self.take();
                    return Err(self.unexpected(token, "operand"));
                }
            }
        }
        let end = operands.last().map_or(start, |operand| operand.at.end);
        let mut operands = operands.into_iter();
        let Some(first) = operands.next() else { return Err(self.fail("empty command")) };
        Ok(Command { at: Span::new(start, end), first, args: operands.collect() })
    }

    /// A term with the fields behind it. Nothing if no term comes next.
    fn operand(&mut self) -> Result<Option<Operand>, Error> {
        let Some(Operand { at, term }) = self.term()? else { return Ok(None) };
        let first = self.peek();
        if first.kind != Kind::Field {
            return Ok(Some(Operand { at, term }));
        }
        let mut fields = Vec::new();
        while self.peek().kind == Kind::Field {
            fields.push(field_name(self.take()));
        }
        // Go points at the first of the fields that were added.
        let whole = Span { pos: first.pos, start: at.start, end: self.taken_to() };
        let term = match term {
            Term::Field(names) => Term::Field([names, fields].concat()),
            Term::Variable(name, _) => Term::Variable(name, fields),
            Term::Function(_) | Term::Pipe(_) => {
                Term::Chain(Box::new(Operand { at, term }), fields)
            }
            _ => {
                let literal = self.source.get(at.start..at.end).unwrap_or_default();
                let message = format!("unexpected . after term {literal:?}");
                return Err(self.fail_at(first, message));
            }
        };
        Ok(Some(Operand { at: whole, term }))
    }

    fn term(&mut self) -> Result<Option<Operand>, Error> {
        let token = self.peek_word();
        let fail = |message: String| self.fail_at(token, message);
        let term = match token.kind {
            Kind::Dot => Term::Dot,
            Kind::Nil => Term::Nil,
            Kind::Field => Term::Field(vec![field_name(token)]),
            Kind::Bool => Term::Literal((token.text == "true").into()),
            Kind::CharConstant => literal::character(token.text).map_err(fail)?,
            Kind::Number => literal::number(token.text).map_err(fail)?,
            Kind::Quoted | Kind::Raw => {
                Term::Literal(literal::unquote(token.text).map_err(fail)?.into())
            }
            Kind::Identifier => match Function::named(token.text) {
                Some(function) => Term::Function(function),
                None => return Err(fail(format!("function {:?} not defined", token.text))),
            },
            Kind::Variable => {
                if !self.variables.iter().any(|name| name == token.text) {
                    return Err(fail(format!("undefined variable {:?}", token.text)));
                }
                Term::Variable(token.text.to_owned(), Vec::new())
            }
            Kind::LeftParen => return self.parenthesized().map(Some),
            Kind::Error => return Err(self.unexpected(token, "operand")),
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(Operand { at: Span::new(token.pos, token.end()), term }))
    }

    fn parenthesized(&mut self) -> Result<Operand, Error> {
        let start = self.take().pos;
        self.enter()?;
        let pipe = self.pipeline("parenthesized pipeline", Kind::RightParen)?;
        self.leave();
        let at = Span::new(start, self.taken_to());
        Ok(Operand { at, term: Term::Pipe(Box::new(pipe)) })
    }
}

fn field_name(token: Token<'_>) -> String {
    token.text.trim_start_matches('.').to_owned()
}

fn begins_operand(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Bool
            | Kind::CharConstant
            | Kind::Dot
            | Kind::Field
            | Kind::Identifier
            | Kind::LeftParen
            | Kind::Nil
            | Kind::Number
            | Kind::Quoted
            | Kind::Raw
            | Kind::Variable
    )
}
