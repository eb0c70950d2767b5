// The split of a service between its two sides, for nginx with njs (0.8.0 or newer; tested with 0.9.9).
//
// Shares are whole numbers out of 10000, one for each side, kept together under the name of the service. Variables that
// the configuration sets (see canary-njs.conf):
//   $canary_route      name of the service, such as checkout
//   $canary_backends   its two sides with a space between them; the first has everything before the first release
//   $canary_folder     where nginx's workers keep the shares, so that a restart does not forget them

import fs from 'fs';

const WHOLE = 10000;

// Which side gets this request: for js_set.
function backend(r) {
    const shares = current(r);
    const sides = Object.keys(shares);
    // $request_id is random, 32 hexadecimal digits.
    const drawn = parseInt(r.variables.request_id.slice(0, 8), 16) % WHOLE;
    return drawn < shares[sides[0]] ? sides[0] : sides[1];
}

// GET tells the shares, PUT changes both: for js_content.
function api(r) {
    if (r.method == 'GET') {
        return answer(r, 200, JSON.stringify(current(r)));
    }
    if (r.method != 'PUT') {
        return answer(r, 405, 'GET or PUT');
    }
    const text = canonical(r.requestText, sides_of(r));
    if (!text) {
        const example = sides_of(r).map(side => `"${side}": 5000`).join(', ');
        return answer(r, 400, `shares must be whole numbers that add up to ${WHOLE}, such as {${example}}`);
    }
    ngx.shared.canary.set(r.variables.canary_route, text);
    try {
        keep(r, text);
    } catch (error) {
        return answer(r, 500, `the shares are in force, but will not stand after a restart: ${error.message}`);
    }
    answer(r, 200, text);
}

function answer(r, status, text) {
    r.headersOut['Content-Type'] = text[0] == '{' ? 'application/json' : 'text/plain';
    r.return(status, text + '\n');
}

function sides_of(r) {
    return r.variables.canary_backends.split(' ');
}

// The shares in force: those of NGINX Plus' keyval when there is one, else of the shared memory, else of the file.
function current(r) {
    const sides = sides_of(r);
    let text = r.variables.canary_split || ngx.shared.canary.get(r.variables.canary_route);
    if (!text) {
        text = from_file(r, sides);
        // Not when another request was faster: it may have brought newer shares.
        ngx.shared.canary.add(r.variables.canary_route, text);
    }
    return JSON.parse(canonical(text, sides) || all_on_first(sides));
}

function from_file(r, sides) {
    try {
        return canonical(fs.readFileSync(file_of(r), 'utf8'), sides) || all_on_first(sides);
    } catch (error) {
        return all_on_first(sides);
    }
}

function all_on_first(sides) {
    return `{"${sides[0]}":${WHOLE},"${sides[1]}":0}`;
}

function file_of(r) {
    return `${r.variables.canary_folder}/${r.variables.canary_route}.json`;
}

// The file says in the end what the shared memory says, whichever worker writes last.
function keep(r, text) {
    const file = file_of(r), temporary = `${file}.${r.variables.pid}`;
    while (text) {
        fs.writeFileSync(temporary, text + '\n');
        fs.renameSync(temporary, file);
        const now = ngx.shared.canary.get(r.variables.canary_route);
        text = now == text ? '' : now;
    }
}

// The shares in one spelling; empty when they are no split between these sides.
function canonical(text, sides) {
    let shares;
    try {
        shares = JSON.parse(text);
    } catch (error) {
        return '';
    }
    const good = shares && typeof shares == 'object' && Object.keys(shares).length == 2 &&
        sides.every(side => Number.isInteger(shares[side]) && shares[side] >= 0) &&
        shares[sides[0]] + shares[sides[1]] == WHOLE;
    return good ? `{"${sides[0]}":${shares[sides[0]]},"${sides[1]}":${shares[sides[1]]}}` : '';
}

export default { api, backend };
