// Tokens as nginx's own scripting verifies them: signature, exp, iss and aud.
// njs keeps nothing between requests, so the key is imported each time.
const ISSUER = '@ISSUER@';
const AUDIENCE = '@AUDIENCE@';
const SECRET = '@SECRET@';
const KEY = Buffer.from('@SPKI@', 'base64');
const RSA = { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' };

function parts(r) {
    const value = r.headersIn.Authorization;
    if (!value || !value.startsWith('Bearer ')) {
        return null;
    }
    const split = value.slice(7).split('.');
    return split.length === 3 ? split : null;
}

function read(part) {
    return JSON.parse(Buffer.from(part, 'base64url'));
}

function isGood(split, algorithm) {
    const claims = read(split[1]);
    return read(split[0]).alg === algorithm && claims.iss === ISSUER && claims.aud === AUDIENCE
        && claims.exp > Date.now() / 1000;
}

// For auth_request: njs has RS256 only behind promises, and a variable cannot wait for one.
async function rs256(r) {
    const split = parts(r);
    if (!split || !isGood(split, 'RS256')) {
        r.return(401);
        return;
    }
    const key = await crypto.subtle.importKey('spki', KEY, RSA, false, ['verify']);
    const signature = Buffer.from(split[2], 'base64url');
    const signed = Buffer.from(split[0] + '.' + split[1]);
    const good = await crypto.subtle.verify(RSA, key, signature, signed);
    r.return(good ? 204 : 401);
}

// For js_set, which costs no subrequest.
function hs256(r) {
    const split = parts(r);
    if (!split || !isGood(split, 'HS256')) {
        return '';
    }
    const made = require('crypto').createHmac('sha256', SECRET)
        .update(split[0] + '.' + split[1]).digest('base64url');
    return made === split[2] ? 'yes' : '';
}

export default { rs256, hs256 };
