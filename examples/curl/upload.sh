#!/usr/bin/env bash
# Sends an archive over tus with nothing but curl: in parts, and from where it was when it is run again.
# Prints the upload's id, then waits for the server to be done with it.
#
# Usage: upload.sh ARCHIVE [IMAGE]     TUSBOAT_SERVER, TUSBOAT_TOKEN, PART_BYTES by environment
set -euo pipefail

archive=${1:?usage: upload.sh ARCHIVE [IMAGE]}
image=${2:-}
server=${TUSBOAT_SERVER:-http://127.0.0.1:8080}
# What a broken line costs at most; curl holds one part in memory.
part_bytes=${PART_BYTES:-67108864}
length=$(wc -c <"$archive" | tr -d ' ')
memory=$archive.upload-url
# Only this user may read them; a token is on no command line.
answer=$(mktemp)
token=$(mktemp)
trap 'rm -f -- "$answer" "$answer.body" "$token"' EXIT
[ -z "${TUSBOAT_TOKEN:-}" ] || printf 'Authorization: Bearer %s\n' "$TUSBOAT_TOKEN" >"$token"

die() { printf 'cannot upload %s: %s\n' "$archive" "$*" >&2; exit 1; }
base64_of() { printf %s "$1" | base64 | tr -d '\n'; }

# One request; its status is printed, its headers are in $answer. 000 or 1xx: the line broke first.
ask() {
    rm -f -- "$answer.body"
    curl --silent --dump-header "$answer" --output "$answer.body" --write-out '%{http_code}' \
        -H "Tus-Resumable: 1.0.0" -H "@$token" "$@" || true
}
header() { tr -d '\r' <"$answer" | { grep -i "^$1:" || true; } | tail -n 1 | sed 's/^[^:]*: *//'; }
said() { cat -- "$answer.body" 2>/dev/null || true; }

begin() {
    local metadata status location
    metadata="filename $(base64_of "$(basename -- "$archive")")"
    [ -z "$image" ] || metadata+=",image $(base64_of "$image")"
    status=$(ask --request POST -H "Upload-Length: $length" -H "Upload-Metadata: $metadata" "$server/files/")
    [ "$status" = 201 ] || die "creating it was answered $status $(said)"
    location=$(header Location)
    case $location in
        /*) url=$(printf %s "$server" | sed 's|^\([a-z]*://[^/]*\).*|\1|')$location ;;
        *) url=$location ;;
    esac
    printf '%s\n%s\n' "$begun" "$url" >"$memory"
}

# Another server or destination is another upload.
begun="$server $image"
url=
[ "$(head -n 1 -- "$memory" 2>/dev/null)" != "$begun" ] || url=$(tail -n 1 -- "$memory")
[ -n "$url" ] || begin
failures=0
while :; do
    status=$(ask --head "$url")
    case $status in
        200) offset=$(header Upload-Offset) ;;
        404 | 410) begin; continue ;;
        # Busy or away: a while later the question may be answered.
        000 | 1?? | 423 | 5??)
            failures=$((failures + 1))
            [ "$failures" -le 20 ] || die "the server answers $status; the same command again goes on"
            sleep 3
            continue
            ;;
        *) die "asking for its offset was answered $status" ;;
    esac
    [ "$(header Upload-Length)" = "$length" ] || { begin; continue; }
    [ "$offset" -lt "$length" ] || break
    printf '%s of %s bytes\n' "$offset" "$length" >&2
    # tail ends at the first part's end, by a signal: no failure.
    status=$({ tail -c "+$((offset + 1))" -- "$archive" || true; } | head -c "$part_bytes" |
        ask --request PATCH -H "Upload-Offset: $offset" -H "Content-Type: application/offset+octet-stream" \
            --data-binary @- "$url")
    case $status in
        204) failures=0 ;;
        000 | 1?? | 409 | 423 | 5??) failures=$((failures + 1)); sleep 1 ;;
        *) die "sending was answered $status $(said)" ;;
    esac
    [ "$failures" -le 20 ] || die "the server answers $status; the same command again goes on"
done
rm -f -- "$memory"

id=${url##*/}
printf '%s\n' "$id"
while :; do
    [ "$(ask "${url%/files/*}/api/uploads/$id")" = 200 ] || die "its status cannot be read: $(said)"
    state=$(said | sed -n 's/.*"status": *"\([a-z]*\)".*/\1/p')
    case $state in
        done) break ;;
        failed | canceled | expired) die "it is $state: $(said)" ;;
    esac
    sleep 1
done
printf '%s\n' "$state"
said | sed -n 's/.*"results": *\[{"image": *"\([^"]*\)", *"digest": *"\([^"]*\)".*/\1 \2/p'
