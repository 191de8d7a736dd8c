#!/bin/sh
# Packs a container image from a program that is already built: no daemon, no build, the same bytes each time.
#
#   install/image.sh [-r REGISTRY] [-v VERSION] [-a amd64|arm64] PROGRAM ARCHIVE
#
# PROGRAM is a statically linked mesh-proxy or mesh-controller (or mesh-testapp, for the tests on a cluster); the image
# is named after it: REGISTRY/mesh-proxy:VERSION. ARCHIVE is an OCI image layout that is a docker archive as well, for
# `ctr -n k8s.io images import`, `docker load`, `podman load`. The image is that of install/Dockerfile.
set -eu

fail() { echo "image.sh: $*" >&2; exit 1; }

registry=localhost/mesh version='' arch=''
while getopts r:v:a: option; do
  case $option in
    r) registry=$OPTARG ;;
    v) version=$OPTARG ;;
    a) arch=$OPTARG ;;
    *) fail "usage: image.sh [-r REGISTRY] [-v VERSION] [-a amd64|arm64] PROGRAM ARCHIVE" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 2 ] || fail "usage: image.sh [-r REGISTRY] [-v VERSION] [-a amd64|arm64] PROGRAM ARCHIVE"
program=$1 archive=$2
name=${program##*/}
here=$(cd "$(dirname "$0")" && pwd)

[ -f "$program" ] || fail "there is no file $program: build it first, with install/build.sh"
case $name in
  mesh-proxy | mesh-controller) user=2102 ;;
  # Any but the proxy's: by that the redirection tells the proxy's connections from the app's.
  mesh-testapp) user=65532 ;;
  *) fail "$program is not named mesh-proxy, mesh-controller or mesh-testapp: the image takes its name from it" ;;
esac
tar --version 2>/dev/null | grep -q 'GNU tar' ||
  fail "this needs GNU tar as 'tar': others can't write the same bytes each time"
for tool in sha256sum gzip od; do
  command -v $tool >/dev/null || fail "this needs $tool, which is not in PATH"
done

# The ELF header: class 64, little-endian, and the machine at byte 18.
header=$(od -An -tx1 -N20 "$program" | tr -d ' \n')
case $header in
  7f454c460201*3e00) built=amd64 ;;
  7f454c460201*b700) built=arm64 ;;
  *) fail "$program is not a Linux program for amd64 or arm64" ;;
esac
[ "${arch:=$built}" = "$built" ] || fail "$program is for $built, not for $arch"
# A program that names an interpreter (the dynamic loader; program header type 3) finds none in an empty image.
number() { od -An -tu"$2" -j"$1" -N"$2" "$program" | tr -d ' '; }
headers=$(number 32 4) entry=$(number 54 2) count=$(number 56 2)
while [ "$count" -gt 0 ]; do
  count=$((count - 1))
  [ "$(number $((headers + count * entry)) 4)" != 3 ] ||
    fail "$program is linked dynamically, and the image has no libraries: build it with install/build.sh"
done

if [ -z "$version" ]; then
  version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/../Cargo.toml" | head -n 1)
  [ -n "$version" ] || fail "no version is found in Cargo.toml: say -v VERSION"
fi
image=$registry/$name:$version
case $image in
  *[!a-zA-Z0-9./:_-]*) fail "'$image' is not the name of an image" ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

sha() { sha256sum "$1" | cut -d' ' -f1; }
size() { wc -c <"$1" | tr -d ' '; }
# Sorted, of no user, of no time: the bytes depend on the content alone.
pack() {
  tar --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
    --directory "$1" .
}
# Moves a file to where its digest says; prints the digest.
blob() {
  digest=$(sha "$1")
  mv "$1" "$work/layout/blobs/sha256/$digest"
  echo "$digest"
}

mkdir -p "$work/root/etc" "$work/layout/blobs/sha256"
cp "$program" "$work/root/$name"
chmod 755 "$work/root/$name"
# Without it, the C library asks DNS before it looks into /etc/hosts.
echo 'hosts: files dns' >"$work/root/etc/nsswitch.conf"

pack "$work/root" >"$work/layer.tar"
diff_id=$(sha "$work/layer.tar")
gzip -9 -n "$work/layer.tar"
layer_size=$(size "$work/layer.tar.gz")
layer=$(blob "$work/layer.tar.gz")

created=1970-01-01T00:00:00Z
cat >"$work/config" <<EOF
{"architecture":"$arch","os":"linux","created":"$created","config":{"User":"$user:$user","Entrypoint":["/$name"],"WorkingDir":"/","Labels":{"org.opencontainers.image.title":"$name","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$diff_id"]},"history":[{"created":"$created","created_by":"install/image.sh"}]}
EOF
config_size=$(size "$work/config")
config=$(blob "$work/config")

cat >"$work/manifest" <<EOF
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
EOF
manifest_size=$(size "$work/manifest")
manifest=$(blob "$work/manifest")

echo '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"
# containerd and podman take the whole name from the first annotation; the second is the layout's own.
cat >"$work/layout/index.json" <<EOF
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"$arch","os":"linux"},"annotations":{"io.containerd.image.name":"$image","org.opencontainers.image.ref.name":"$version"}}]}
EOF
# What docker looks for.
cat >"$work/layout/manifest.json" <<EOF
[{"Config":"blobs/sha256/$config","RepoTags":["$image"],"Layers":["blobs/sha256/$layer"]}]
EOF

pack "$work/layout" >"$work/archive"
mv "$work/archive" "$archive"
echo "$image ($arch) is in $archive: sha256:$manifest"
