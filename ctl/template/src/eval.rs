//! Evaluation of pipelines: fields, methods and functions.

use serde_json::Value;

use crate::ast::{Command, Operand, Pipe, Span, Term};
use crate::exec::Run;
use crate::functions::{Body, Context, Function, Want};
use crate::value::{Val, type_name};
use crate::{Error, Missing};

impl<'a> Run<'a> {
    /// The value of a pipeline. Variables that it declares stay.
    pub(crate) fn pipeline(&mut self, dot: &Val<'a>, pipe: &'a Pipe) -> Result<Val<'a>, Error> {
        self.enter()?;
        self.at = pipe.at;
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(dot, command, last)?);
        }
        // The parser leaves no pipeline without a command.
        let value = last.unwrap_or(Val::Missing);
        for name in &pipe.names {
            if pipe.assign {
                self.assign(name, value.clone())?;
            } else {
                self.declare(name, value.clone());
            }
        }
        self.depth -= 1;
        Ok(value)
    }

    /// `last` is the value of the command before, which is the last argument.
    fn command(
        &mut self,
        dot: &Val<'a>,
        command: &'a Command,
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        self.step()?;
        if matches!(command.first.term, Term::Nil) {
            self.at = command.first.at;
            return Err(self.fail("nil is not a command"));
        }
        self.operand(dot, &command.first, command.at, &command.args, last)
    }

    fn argument(&mut self, dot: &Val<'a>, operand: &'a Operand) -> Result<Val<'a>, Error> {
        self.operand(dot, operand, operand.at, &[], None)
    }

    /// An operand, with arguments if it is a function or a method. `whole` is
    /// the command.
    fn operand(
        &mut self,
        dot: &Val<'a>,
        operand: &'a Operand,
        whole: Span,
        args: &'a [Operand],
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        let parenthesized = match &operand.term {
            Term::Pipe(pipe) => Some(pipe),
            _ => {
                self.at = operand.at;
                None
            }
        };
        let takes_arguments = match &operand.term {
            Term::Field(_) | Term::Chain(..) | Term::Function(_) => true,
            Term::Variable(_, fields) => !fields.is_empty(),
            _ => false,
        };
        if !takes_arguments && (!args.is_empty() || last.is_some()) {
            let piece = self.piece(parenthesized.map_or(operand.at, |pipe| pipe.at));
            return Err(self.fail(format!("can't give argument to non-function {piece}")));
        }
        match &operand.term {
            Term::Literal(value) => Ok(Val::Ref(value)),
            Term::Overflow => Err(self.fail(format!("{} overflows int", self.piece(operand.at)))),
            Term::Nil => Ok(Val::Missing),
            Term::Dot => Ok(dot.clone()),
            Term::Field(fields) => self.fields(dot, dot.clone(), fields, args, last),
            Term::Variable(name, fields) => {
                let receiver = self.variable(name)?;
                self.fields(dot, receiver, fields, args, last)
            }
            Term::Function(function) => self.call(dot, function, whole, args, last),
            Term::Pipe(pipe) => self.pipeline(dot, pipe),
            Term::Chain(base, fields) => {
                let receiver = self.argument(dot, base)?;
                self.fields(dot, receiver, fields, args, last)
            }
        }
    }

    /// Follows fields; the last one may be a method with arguments.
    fn fields(
        &mut self,
        dot: &Val<'a>,
        receiver: Val<'a>,
        fields: &'a [String],
        args: &'a [Operand],
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        let Some((method, path)) = fields.split_last() else { return Ok(receiver) };
        let mut receiver = receiver;
        for field in path {
            receiver = self.field(dot, &receiver, field, &[], None)?;
        }
        self.field(dot, &receiver, method, args, last)
    }

    fn field(
        &mut self,
        dot: &Val<'a>,
        receiver: &Val<'a>,
        name: &str,
        args: &'a [Operand],
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        if let Val::Missing = receiver {
            return match self.options.missing {
                Missing::NoValue => Ok(Val::Missing),
                Missing::Error => Err(self.fail(format!("nil data; no entry for key {name:?}"))),
            };
        }
        let has_arguments = !args.is_empty() || last.is_some();
        if !has_arguments && let Some(value) = receiver.member(name) {
            return self.made(value);
        }
        if let Some(value) = self.method(dot, receiver, name, args, last)? {
            return Ok(value);
        }
        let message = match receiver.get() {
            Value::Object(_) if has_arguments => {
                format!("{name} is not a method but has arguments")
            }
            Value::Object(map) => {
                let is_map = self.options.maps.is_some_and(|maps| maps(map).is_some());
                if is_map || self.options.missing == Missing::NoValue {
                    return Ok(Val::Missing);
                }
                format!("can't evaluate field {name}")
            }
            Value::Null => format!("nil pointer evaluating interface {{}}.{name}"),
            other => format!("can't evaluate field {name} in type {}", type_name(other)),
        };
        Err(self.fail(message))
    }

    /// Asks the caller for a method; nothing if there is none.
    fn method(
        &mut self,
        dot: &Val<'a>,
        receiver: &Val<'a>,
        name: &str,
        args: &'a [Operand],
        last: Option<Val<'a>>,
    ) -> Result<Option<Val<'a>>, Error> {
        let Some(methods) = self.options.methods else { return Ok(None) };
        let at = self.at;
        let mut values = Vec::with_capacity(args.len() + 1);
        for arg in args {
            values.push(self.argument(dot, arg)?.into_value());
        }
        values.extend(last.map(Val::into_value));
        self.at = at;
        match methods(receiver.get(), name, &values) {
            Some(Ok(value)) => self.made(Val::own(value)).map(Some),
            Some(Err(e)) => Err(self.fail(format!("error calling {name}: {}", e.message()))),
            None => Ok(None),
        }
    }

    fn call(
        &mut self,
        dot: &Val<'a>,
        function: &'static Function,
        whole: Span,
        args: &'a [Operand],
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        let count = args.len() + usize::from(last.is_some());
        function.check(count).map_err(|message| self.fail(message))?;
        let body = match function.body {
            Body::Logic { or } => return self.logic(dot, or, args, last),
            Body::Of(body) => body,
        };
        let keep = self.options.header && function.keeps_header;
        let mut values = Vec::with_capacity(count);
        for (index, arg) in args.iter().enumerate() {
            let value = self.argument(dot, arg)?;
            let want = if keep { Want::Any } else { function.want(index) };
            values.push(self.convert(value, want, Some(arg))?);
        }
        if let Some(last) = last {
            let want = if keep { Want::Any } else { function.want(args.len()) };
            values.push(self.convert(last, want, None)?);
        }
        if keep {
            return Ok(values.into_iter().next().unwrap_or(Val::Missing));
        }
        let context = Context { options: self.options, left: self.left };
        match body(&values, &context) {
            Ok(value) => self.made(value),
            Err(message) => {
                self.at = whole;
                Err(self.fail(format!("error calling {}: {message}", function.name)))
            }
        }
    }

    /// `and` and `or`, which evaluate no more than they need.
    fn logic(
        &mut self,
        dot: &Val<'a>,
        or: bool,
        args: &'a [Operand],
        last: Option<Val<'a>>,
    ) -> Result<Val<'a>, Error> {
        let mut value = Val::Missing;
        for arg in args {
            value = self.argument(dot, arg)?;
            if value.truth() == or {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    /// Checks that an argument is what a function wants. `operand` is where it
    /// stands, if it is no result of a command.
    fn convert(
        &self,
        value: Val<'a>,
        want: Want,
        operand: Option<&Operand>,
    ) -> Result<Val<'a>, Error> {
        let good = match (want, value.get()) {
            (Want::Any, _) | (Want::Text, Value::String(_)) | (Want::Texts, Value::Null) => true,
            (Want::Int, Value::Number(number)) => number.is_i64(),
            (Want::Texts, Value::Array(list)) => list.iter().all(Value::is_string),
            _ => false,
        };
        if good {
            return Ok(value);
        }
        // A literal such as `2.0` is an integer as well.
        if want == Want::Int
            && let Some(Term::Literal(literal)) = operand.map(|operand| &operand.term)
            && let Some(float) = literal.as_f64()
            && float.trunc() == float
            && float.abs() < 9.0e15
        {
            return Ok(Val::own(float as i64));
        }
        Err(self.fail(self.mismatch(&value, want, operand)))
    }

    /// What is wrong with an argument that is not what a function wants.
    fn mismatch(&self, value: &Val<'_>, want: Want, operand: Option<&Operand>) -> String {
        let kind = match want {
            Want::Any => "interface {}",
            Want::Text => "string",
            Want::Int => "int",
            Want::Texts => "[]string",
        };
        let piece = operand.map_or("", |operand| self.piece(operand.at));
        match (operand.map(|operand| &operand.term), value) {
            (Some(Term::Nil), _) => format!("cannot assign nil to {kind}"),
            (Some(Term::Literal(_)), _) => match want {
                Want::Texts => format!("can't handle {piece} for arg of type {kind}"),
                Want::Int => format!("expected integer; found {piece}"),
                _ => format!("expected {kind}; found {piece}"),
            },
            (_, Val::Missing) => format!("invalid value; expected {kind}"),
            (_, value) => {
                let found = match value.get() {
                    Value::Null => "interface {}",
                    other => type_name(other),
                };
                format!("wrong type for value; expected {kind}; got {found}")
            }
        }
    }
}
