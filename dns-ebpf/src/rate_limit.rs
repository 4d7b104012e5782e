//! The rate limit of clients on network cards: token buckets.

use dns_common::{
    Outcome,
    settings::{TOKEN, TOKEN_BUCKETS},
};

use crate::{
    Frame, Tables,
    admission::answers_all_clients,
    headers::{ethernet, ipv4, ipv6},
    query::ParsedQuery,
    verifier::{load, load_shared},
};

/// The fractional part of the golden ratio, times 2⁶⁴. Multiplying by it spreads similar addresses
/// over the buckets.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Takes a token from the client's bucket. Without a token the query passes. There is no limit if
/// `limit_burst` is 0, and at hooks that answer all clients.
///
/// Several clients may share a bucket. If two CPUs access a bucket at the same time, both may take
/// the same token. So the limit is approximate.
#[inline(always)]
pub(crate) fn take_token<F: Frame, T: Tables>(
    query: &ParsedQuery<'_>,
    tables: &T,
) -> Result<(), Outcome> {
    let settings = query.settings;
    if settings.limit_burst == 0 || answers_all_clients::<F>(settings) {
        return Ok(());
    }
    let ip = query.start + ethernet::LENGTH;
    // The packet of a query is always longer. The check is for the verifier.
    if ip + ipv6::LENGTH > query.end {
        return Ok(());
    }
    // A client is one IPv4 address or a /64 IPv6 network, because one host may use all addresses of
    // its /64.
    // SAFETY: just checked.
    let client: u64 = unsafe {
        if query.is_ipv6() {
            load(ip + ipv6::SOURCE)
        } else {
            load::<u32>(ip + ipv4::SOURCE).into()
        }
    };
    // The upper 16 bits of the product depend on all bits of the address. With 2¹⁶ buckets the
    // remainder changes nothing; it keeps the number in range if there are ever fewer.
    let number = (client ^ settings.secret).wrapping_mul(SPREAD) >> 48;
    let Some(bucket) = tables.token_bucket(number as u32 % TOKEN_BUCKETS) else {
        return Ok(());
    };
    // SAFETY: an element of the map, which is one word.
    let state = unsafe { load_shared(bucket as usize) };
    let now = tables.now() as u32;
    let elapsed = u64::from(now.wrapping_sub((state >> 32) as u32));
    let filled = (state & 0xffff_ffff) + elapsed * u64::from(settings.limit_refill);
    let burst = u64::from(settings.limit_burst);
    // A bucket that was never used is full.
    let level = if state == 0 || filled > burst {
        burst
    } else {
        filled
    };
    if level < TOKEN {
        return Err(Outcome::OverLimit);
    }
    // SAFETY: as above; the word is stored whole.
    unsafe { bucket.write_volatile(u64::from(now) << 32 | (level - TOKEN)) };
    Ok(())
}
