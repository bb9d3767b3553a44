//! Floats as Go's `strconv` formats them.

/// No float has more digits than this, in all or behind its point: further ones
/// are zeros. Rust's formatting takes no precision beyond 16 bits.
const EXACT: usize = 1100;

/// The digits of a float without zeros at their end, and how many of them
/// stand before the point.
struct Digits {
    digits: String,
    point: i32,
}

impl Digits {
    /// `precision` digits; without one, as few as name this float.
    fn of(value: f64, precision: Option<usize>) -> Self {
        let value = value.abs();
        let text = match precision {
            Some(precision) => format!("{value:.*e}", precision.saturating_sub(1).min(EXACT)),
            None => format!("{value:e}"),
        };
        let (mantissa, exponent) = text.split_once('e').unwrap_or((text.as_str(), "0"));
        let digits = mantissa.replace('.', "");
        let kept = digits.trim_end_matches('0').len().max(1);
        let point = exponent.parse::<i32>().unwrap_or(0) + 1;
        Self { digits: digits[..kept].to_owned(), point }
    }

    /// With `decimals` digits behind the point.
    fn plain(&self, decimals: usize) -> String {
        let point = usize::try_from(self.point).unwrap_or(0);
        let zeros = usize::try_from(-self.point).unwrap_or(0);
        let mut text = String::new();
        if point == 0 {
            text.push('0');
        } else {
            let whole = &self.digits[..self.digits.len().min(point)];
            text.push_str(whole);
            text.extend(std::iter::repeat_n('0', point - whole.len()));
        }
        if decimals > 0 {
            text.push('.');
            let fraction = self.digits.get(point..).unwrap_or_default();
            let behind = std::iter::repeat_n('0', zeros).chain(fraction.chars());
            text.extend(behind.chain(std::iter::repeat('0')).take(decimals));
        }
        text
    }

    /// With one digit before the point.
    fn scientific(&self, least_exponent: usize) -> String {
        let (first, fraction) = self.digits.split_at(1);
        let point = if fraction.is_empty() { "" } else { "." };
        format!("{first}{point}{fraction}{}", exponent(self.point - 1, least_exponent))
    }

    fn count(&self) -> i32 {
        i32::try_from(self.digits.len()).unwrap_or(i32::MAX)
    }
}

/// An exponent with its sign and at least so many digits.
fn exponent(value: i32, digits: usize) -> String {
    let sign = if value < 0 { '-' } else { '+' };
    format!("e{sign}{:0digits$}", value.unsigned_abs())
}

fn signed(value: f64, text: String) -> String {
    if value.is_sign_negative() { format!("-{text}") } else { text }
}

/// `%g`, and without a precision `%v`.
pub(crate) fn general(value: f64, precision: Option<usize>) -> String {
    let precision = precision.map(|precision| precision.max(1));
    let digits = Digits::of(value, precision);
    // From this exponent on, the scientific form is the shorter one.
    let large = match precision {
        None => 6,
        Some(precision) => {
            let precision = i32::try_from(precision).unwrap_or(i32::MAX);
            let all = precision > digits.count() && digits.count() >= digits.point;
            if all { digits.count() } else { precision }
        }
    };
    let scale = digits.point - 1;
    if scale < -4 || scale >= large {
        return signed(value, digits.scientific(2));
    }
    let decimals = usize::try_from(digits.count() - digits.point).unwrap_or(0);
    signed(value, digits.plain(decimals))
}

/// `%e`
pub(crate) fn scientific(value: f64, precision: usize) -> String {
    let text = format!("{:.*e}", precision.min(EXACT), value.abs());
    let (mantissa, scale) = text.split_once('e').unwrap_or((text.as_str(), "0"));
    let zeros = "0".repeat(precision.saturating_sub(EXACT));
    let scale = exponent(scale.parse().unwrap_or(0), 2);
    signed(value, format!("{mantissa}{zeros}{scale}"))
}

/// `%f`
pub(crate) fn fixed(value: f64, precision: usize) -> String {
    let text = format!("{:.*}", precision.min(EXACT), value.abs());
    signed(value, text + &"0".repeat(precision.saturating_sub(EXACT)))
}

/// A float in JSON, as Go's `encoding/json` writes it.
pub(crate) fn json(value: f64) -> String {
    let digits = Digits::of(value, None);
    let size = value.abs();
    if size != 0.0 && !(1e-6..1e21).contains(&size) {
        return signed(value, digits.scientific(1));
    }
    let decimals = usize::try_from(digits.count() - digits.point).unwrap_or(0);
    signed(value, digits.plain(decimals))
}
