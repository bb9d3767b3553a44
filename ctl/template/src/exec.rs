//! Execution of a template: texts, branches, loops and calls.

use std::mem;

use serde_json::Value;

use crate::ast::{Branch, Call, Node, Range, Span};
use crate::print::{Buf, NO_VALUE, display};
use crate::value::{Val, type_name, weight};
use crate::{Error, Options, Templates};

/// Deepest nesting of templates, actions and parentheses that are evaluated.
const DEEPEST: usize = 200;
/// Most actions, iterations and commands of a render.
const LONGEST: u64 = 1_000_000;
/// Longest value that an error shows, in bytes.
const SHOWN: usize = 80;

/// Renders the templates' root over a value.
pub(crate) fn run<'a>(
    source: &'a str,
    templates: &'a Templates,
    data: &'a Value,
    options: &'a Options<'a>,
) -> Result<String, Error> {
    let dot = Val::Ref(data);
    let mut run = Run {
        source,
        templates,
        options,
        output: String::new(),
        left: options.limit,
        steps: 0,
        depth: 0,
        at: Span::default(),
        name: "",
        variables: vec![("$", dot.clone())],
    };
    if let Some(root) = templates.get("") {
        run.nested(&dot, root)?;
    }
    Ok(run.output)
}

/// The state of a render.
pub(crate) struct Run<'a> {
    source: &'a str,
    templates: &'a Templates,
    pub(crate) options: &'a Options<'a>,
    output: String,
    /// Bytes that may still be made.
    pub(crate) left: usize,
    steps: u64,
    pub(crate) depth: usize,
    /// The piece that is evaluated, for errors.
    pub(crate) at: Span,
    /// The template that is executed.
    name: &'a str,
    /// The innermost ones come last.
    variables: Vec<(&'a str, Val<'a>)>,
}

/// What comes after an action.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'a> Run<'a> {
    /// An error about the piece that is evaluated.
    pub(crate) fn fail(&self, message: impl Into<String>) -> Error {
        Error::executing(self.source, self.at, self.name, message.into())
    }

    /// The text of a piece.
    pub(crate) fn piece(&self, at: Span) -> &'a str {
        self.source.get(at.start..at.end).unwrap_or_default()
    }

    /// Goes one level down; the caller goes up again.
    pub(crate) fn enter(&mut self) -> Result<(), Error> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.fail(format!("exceeded maximum template depth ({DEEPEST})")));
        }
        Ok(())
    }

    pub(crate) fn step(&mut self) -> Result<(), Error> {
        self.steps += 1;
        if self.steps > LONGEST {
            return Err(self.fail(format!("takes more than {LONGEST} steps")));
        }
        Ok(())
    }

    /// Accounts for bytes that are made.
    fn spend(&mut self, bytes: usize) -> Result<(), Error> {
        let Some(left) = self.left.checked_sub(bytes) else {
            return Err(self.fail(format!("makes more than {} bytes", self.options.limit)));
        };
        self.left = left;
        Ok(())
    }

    /// Accounts for a value that was computed.
    pub(crate) fn made(&mut self, value: Val<'a>) -> Result<Val<'a>, Error> {
        if let Val::Own(value) = &value {
            self.spend(weight(value))?;
        }
        Ok(value)
    }

    pub(crate) fn declare(&mut self, name: &'a str, value: Val<'a>) {
        self.variables.push((name, value));
    }

    /// Sets the innermost variable of this name.
    pub(crate) fn assign(&mut self, name: &str, value: Val<'a>) -> Result<(), Error> {
        match self.variables.iter_mut().rev().find(|(present, _)| *present == name) {
            Some((_, slot)) => {
                *slot = value;
                Ok(())
            }
            None => Err(self.fail(format!("undefined variable: {name}"))),
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Result<Val<'a>, Error> {
        match self.variables.iter().rev().find(|(present, _)| *present == name) {
            Some((_, value)) => Ok(value.clone()),
            None => Err(self.fail(format!("undefined variable: {name}"))),
        }
    }

    fn nested(&mut self, dot: &Val<'a>, nodes: &'a [Node]) -> Result<Flow, Error> {
        self.enter()?;
        let flow = self.walk(dot, nodes)?;
        self.depth -= 1;
        Ok(flow)
    }

    fn walk(&mut self, dot: &Val<'a>, nodes: &'a [Node]) -> Result<Flow, Error> {
        for node in nodes {
            self.step()?;
            let flow = match node {
                Node::Text(text) => {
                    self.write(text)?;
                    Flow::Next
                }
                Node::Action(pipe) => {
                    let value = self.pipeline(dot, pipe)?;
                    if pipe.names.is_empty() {
                        self.print(&value)?;
                    }
                    Flow::Next
                }
                Node::Branch(branch) => self.branch(dot, branch)?,
                Node::Range(range) => self.range(dot, range)?,
                Node::Call(call) => {
                    self.call_template(dot, call)?;
                    Flow::Next
                }
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.spend(text.len())?;
        self.output.push_str(text);
        Ok(())
    }

    fn print(&mut self, value: &Val<'a>) -> Result<(), Error> {
        if let Val::Missing = value {
            return self.write(NO_VALUE);
        }
        if let Value::String(text) = value.get() {
            return self.write(text);
        }
        let mut buf = Buf::new(self.left);
        display(&mut buf, value.get());
        match buf.finish() {
            Ok(text) => self.write(&text),
            Err(message) => Err(self.fail(message)),
        }
    }

    fn branch(&mut self, dot: &Val<'a>, branch: &'a Branch) -> Result<Flow, Error> {
        let scope = self.variables.len();
        let mut inner = dot.clone();
        let mut body = &branch.otherwise;
        for (pipe, arm) in &branch.arms {
            let value = self.pipeline(dot, pipe)?;
            if value.truth() {
                if branch.with {
                    inner = value;
                }
                body = arm;
                break;
            }
        }
        let flow = self.nested(&inner, body)?;
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn range(&mut self, dot: &Val<'a>, range: &'a Range) -> Result<Flow, Error> {
        let scope = self.variables.len();
        let value = self.pipeline(dot, &range.pipe)?;
        let mut flow = Flow::Next;
        if !self.iterate(range, &value)? {
            flow = self.nested(dot, &range.otherwise)?;
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    /// Executes a loop's body for each element; whether there is any.
    fn iterate(&mut self, range: &'a Range, value: &Val<'a>) -> Result<bool, Error> {
        match value.get() {
            Value::Null => Ok(false),
            Value::Array(list) => {
                for index in 0..list.len() {
                    let element = value.element(index).unwrap_or(Val::Missing);
                    if !self.iteration(range, Val::own(index), element)? {
                        break;
                    }
                }
                Ok(!list.is_empty())
            }
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_unstable();
                for key in keys {
                    let element = value.member(key).unwrap_or(Val::Missing);
                    if !self.iteration(range, Val::own(key.as_str()), element)? {
                        break;
                    }
                }
                Ok(!map.is_empty())
            }
            Value::Number(number) if number.is_i64() => {
                let count = number.as_i64().unwrap_or(0);
                if range.pipe.names.len() > 1 {
                    let message = "to iterate over more than one variable";
                    return Err(self.fail(format!("can't use {count} {message}")));
                }
                for index in 0..count {
                    if !self.iteration(range, Val::Missing, Val::own(index))? {
                        break;
                    }
                }
                Ok(count > 0)
            }
            other => {
                let mut shown = Buf::new(SHOWN);
                display(&mut shown, other);
                let shown = shown.finish().unwrap_or_else(|_| type_name(other).to_owned());
                Err(self.fail(format!("range can't iterate over {shown}")))
            }
        }
    }

    /// Executes a loop's body once; whether the loop goes on.
    fn iteration(
        &mut self,
        range: &'a Range,
        index: Val<'a>,
        element: Val<'a>,
    ) -> Result<bool, Error> {
        self.step()?;
        let scope = self.variables.len();
        let names = &range.pipe.names;
        // Of two variables, the first one is the index.
        let mut values = vec![element.clone()];
        if names.len() > 1 {
            values.insert(0, index);
        }
        if range.pipe.assign {
            for (name, value) in names.iter().zip(values) {
                self.assign(name, value)?;
            }
        } else {
            // The pipeline declared them just now.
            let declared = self.variables.iter_mut().skip(scope.saturating_sub(names.len()));
            for ((_, slot), value) in declared.zip(values) {
                *slot = value;
            }
        }
        let flow = self.nested(&element, &range.body)?;
        self.variables.truncate(scope);
        Ok(flow != Flow::Break)
    }

    fn call_template(&mut self, dot: &Val<'a>, call: &'a Call) -> Result<(), Error> {
        self.at = call.at;
        let Some((name, body)) = self.templates.get_key_value(&call.name) else {
            return Err(self.fail(format!("template {:?} not defined", call.name)));
        };
        let dot = match &call.pipe {
            Some(pipe) => self.pipeline(dot, pipe)?,
            None => Val::Missing,
        };
        self.at = call.at;
        let caller = mem::replace(&mut self.name, name.as_str());
        let variables = mem::replace(&mut self.variables, vec![("$", dot.clone())]);
        self.nested(&dot, body)?;
        self.variables = variables;
        self.name = caller;
        Ok(())
    }
}
