#!/usr/bin/env bash
# Installs the software Vulkan driver (Mesa's lavapipe) and the loader when no Vulkan driver is there and apt may install.
# Says what it did. Never fails the set-up: without a driver the vulkan-sw cells are BLOCKED, nothing else changes.
set -u

say() { echo "install-vulkan: $*" >&2; }

loader_present() { ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; }

driver_present() {
    local folder
    [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return 0
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d; do
        compgen -G "$folder/*.json" >/dev/null && return 0
    done
    return 1
}

if [ "$(uname -s)" != Linux ]; then
    say "nothing to do on $(uname -s): lavapipe is installed on Linux only"
    exit 0
fi
if loader_present && driver_present; then
    say "a Vulkan loader and a driver are there already; nothing to do"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    say "no Vulkan driver, and no apt-get to install one; the vulkan-sw cells will be BLOCKED"
    exit 0
fi
become=()
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
        say "no Vulkan driver, and no right to install one; as root: apt-get install mesa-vulkan-drivers libvulkan1"
        exit 0
    fi
    become=(sudo -n)
fi

install() {
    "${become[@]}" env DEBIAN_FRONTEND=noninteractive \
        timeout 300 apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1 >/dev/null 2>&1
}

say "installing mesa-vulkan-drivers and libvulkan1"
if install || { "${become[@]}" timeout 120 apt-get update >/dev/null 2>&1 && install; }; then
    say "installed: the wgpu backend can now run on the software adapter llvmpipe"
else
    say "the installation failed (no network, or no such package); the vulkan-sw cells will be BLOCKED"
fi
exit 0
