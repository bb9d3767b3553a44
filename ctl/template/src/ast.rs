//! What a template is parsed into.

use serde_json::Value;

use crate::functions::Function;

/// A piece of the template's text, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// Where an error about it points; Go's choice, not always its start.
    pub(crate) pos: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { pos: start, start, end }
    }
}

/// A text or an action.
pub(crate) enum Node {
    Text(String),
    /// `{{pipeline}}`
    Action(Pipe),
    Branch(Branch),
    Range(Range),
    Call(Call),
    Break,
    Continue,
}

/// `{{if}}` or `{{with}}` with what follows each `{{else if}}`.
pub(crate) struct Branch {
    /// Whether the condition is the body's dot.
    pub(crate) with: bool,
    pub(crate) arms: Vec<(Pipe, Vec<Node>)>,
    pub(crate) otherwise: Vec<Node>,
}

/// `{{range}}`
pub(crate) struct Range {
    pub(crate) pipe: Pipe,
    pub(crate) body: Vec<Node>,
    pub(crate) otherwise: Vec<Node>,
}

/// `{{template}}`, or the `{{block}}` that stands for one.
pub(crate) struct Call {
    pub(crate) at: Span,
    pub(crate) name: String,
    pub(crate) pipe: Option<Pipe>,
}

/// `$names := command | command`
pub(crate) struct Pipe {
    pub(crate) at: Span,
    /// Variables that it sets, with their `$`.
    pub(crate) names: Vec<String>,
    /// Whether they exist already.
    pub(crate) assign: bool,
    pub(crate) commands: Vec<Command>,
}

/// An operand, and its arguments if it is a function or a method.
pub(crate) struct Command {
    pub(crate) at: Span,
    pub(crate) first: Operand,
    pub(crate) args: Vec<Operand>,
}

pub(crate) struct Operand {
    pub(crate) at: Span,
    pub(crate) term: Term,
}

pub(crate) enum Term {
    /// A boolean, a number or a string.
    Literal(Value),
    /// A literal that is too large for an `int`, which Go finds at run time.
    Overflow,
    Nil,
    Dot,
    /// `.A.B`
    Field(Vec<String>),
    /// `$x.A.B`
    Variable(String, Vec<String>),
    Function(&'static Function),
    /// `(pipeline)`
    Pipe(Box<Pipe>),
    /// `(pipeline).A.B`
    Chain(Box<Operand>, Vec<String>),
}
