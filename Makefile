# SPDX-License-Identifier: GPL-2.0-or-later
#
# reprotect: one Makefile for programs, kernel module and tests.
#
#   make                programs into build/bin
#   make module         blkcbt.ko for KDIR (default: the running kernel)
#   make demo           the main job on real disks in a VM, shown to a person
#   make check          all tests; installs what they need; "N passed, N failed"
#   make help           everything else
#
# Layout: userspace/<program>/*.c with userspace/common/*.c makes
# build/bin/reprotect-<program>; nothing has to be listed here when a file is added.

VERSION := 0.1.0
BUILD   := build
CACHE   := $(if $(REPROTECT_CACHE),$(REPROTECT_CACHE),$(CURDIR)/.cache)
KERNELS ?= 6.1 6.12 latest
KDIR    ?= /lib/modules/$(shell uname -r)/build

CC     ?= gcc
CLANG  ?= clang
CFLAGS ?= -O2 -g
WARN   := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
CPPFLAGS_ALL := -D_GNU_SOURCE -DREPROTECT_VERSION='"$(VERSION)"' -Iuserspace/common -Iuapi $(CPPFLAGS)
CFLAGS_ALL   := -std=gnu17 $(WARN) $(CFLAGS)
PKGS   := liburing libnl-genl-3.0 libkmod libsystemd inih jansson libisal libxxhash blkid
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
LIBS       := $(shell pkg-config --libs $(PKGS) 2>/dev/null) -laio -lpthread
SANITIZE   := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer

# kmod/store_format.c is pure: programs look at a store with the code of the module.
COMMON := $(wildcard userspace/common/*.c) kmod/store_format.c
DAEMONS := agent process-server master-target
PROGRAMS := $(addprefix $(BUILD)/bin/reprotect-,$(DAEMONS) early) $(BUILD)/bin/reprotect
PLUGIN := $(BUILD)/lib/nbdkit-reprotect-plugin.so
PLUGIN_SOURCES := $(wildcard userspace/nbdkit-plugin/*.c)
UNIT  := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(wildcard tests/unit/test_*.c))
FUZZ  := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
VMTOOLS := $(patsubst tests/vm/tools/%.c,$(BUILD)/vm-tools/%,$(wildcard tests/vm/tools/*.c))
E2ETOOLS := $(patsubst tests/e2e/tools/%.c,$(BUILD)/e2e-tools/%,$(wildcard tests/e2e/tools/*.c))
BENCHTOOLS := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(wildcard tests/bench/*.c))

.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all module modules test-modules install clean help deps demo demo-disaster check check-unit check-e2e check-vm check-boot \
	check-long lint bench fuzz stress unit fuzzers tools testing kernels debug-kernels check-debug coverage kunit

all: $(PROGRAMS) $(PLUGIN)

# ---- programs ---------------------------------------------------------------
# Three flavours of the same objects: obj (shipped), asan (tests), testing (with
# the test doubles compiled in, never shipped).

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/asan/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -DREPROTECT_TESTING -I. $(CFLAGS_ALL) -O1 $(SANITIZE) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/testing/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) -DREPROTECT_TESTING $(CFLAGS_ALL) $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/fuzzobj/%.o: %.c
	@mkdir -p $(@D)
	$(CLANG) $(CPPFLAGS_ALL) -I. $(CFLAGS_ALL) -O1 -fsanitize=address,undefined,fuzzer-no-link $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

# Position-independent, nothing visible but what says so: for the plugin.
$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) -fPIC -fvisibility=hidden $(PKG_CFLAGS) -MMD -MP -c -o $@ $<

define flavour # directory
$(BUILD)/$(1)/libcommon.a: $(COMMON:%.c=$(BUILD)/$(1)/%.o)
	@rm -f $$@
	ar rcs $$@ $$^
endef
$(foreach f,obj asan testing fuzzobj pic,$(eval $(call flavour,$(f))))

define program # name, source directory
$(BUILD)/bin/$(1): $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard userspace/$(2)/*.c)) $(BUILD)/obj/libcommon.a
	@mkdir -p $$(@D)
	$(CC) $(CFLAGS_ALL) $$(LDFLAGS) -o $$@ $$^ $(LIBS)
$(BUILD)/test/$(1)-testing: $(patsubst %.c,$(BUILD)/testing/%.o,$(wildcard userspace/$(2)/*.c)) $(BUILD)/testing/libcommon.a
	@mkdir -p $$(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -o $$@ $$^ $(LIBS)
$(BUILD)/test/$(1)-asan: $(patsubst %.c,$(BUILD)/asan/%.o,$(wildcard userspace/$(2)/*.c)) $(BUILD)/asan/libcommon.a
	@mkdir -p $$(@D)
	$(CC) $(CFLAGS_ALL) $(SANITIZE) -o $$@ $$^ $(LIBS)
endef
$(foreach d,$(DAEMONS),$(eval $(call program,reprotect-$(d),$(d))))
$(eval $(call program,reprotect,cli))
# Part of the initramfs, with the libraries that it is linked with: only those that it needs.
$(eval $(call program,reprotect-early,early))
$(BUILD)/bin/reprotect-early: LDFLAGS += -Wl,--as-needed

$(PLUGIN): $(PLUGIN_SOURCES:%.c=$(BUILD)/pic/%.o) $(BUILD)/pic/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(LDFLAGS) -shared -Wl,--as-needed -o $@ $^ $(LIBS)

testing: $(BUILD)/test/reprotect-agent-testing $(foreach d,$(DAEMONS),$(BUILD)/test/reprotect-$(d)-asan) \
	$(BUILD)/test/reprotect-asan $(BUILD)/test/reprotect-early-asan

# ---- the module -------------------------------------------------------------
# Built in a copy, because the kernel's build writes beside its sources, and one
# tree serves several kernels.

KMOD_SOURCES := Kbuild $(wildcard kmod/*) uapi/linux/blkcbt.h

define copy-kmod # to
	@mkdir -p $(1)/kmod $(1)/uapi/linux
	@cp -pu Kbuild $(1)/ && cp -pu kmod/* $(1)/kmod/ && cp -pu uapi/linux/blkcbt.h $(1)/uapi/linux/
endef

module: $(KMOD_SOURCES)
	$(call copy-kmod,$(BUILD)/kmod/running)
	$(MAKE) -C $(KDIR) M=$(CURDIR)/$(BUILD)/kmod/running W=1 modules
	@echo "built $(BUILD)/kmod/running/blkcbt.ko for $(KDIR)"

kernels:
	scripts/install-deps build check test
	scripts/fetch-kernels $(KERNELS)

$(CACHE)/kernels/%/release:
	scripts/fetch-kernels $*

$(BUILD)/kmod/%-faults/blkcbt.ko: $(KMOD_SOURCES) $(CACHE)/kernels/%/release
	$(call copy-kmod,$(@D))
	$(MAKE) -C $(CACHE)/kernels/$*/build M=$(abspath $(@D)) CC=gcc BLKCBT_FAULTS=1 W=1 modules >$(@D)/build.log 2>&1 || { cat $(@D)/build.log; exit 1; }

# As on a kernel without a function tracer.
$(BUILD)/kmod/%-nogate/blkcbt.ko: $(KMOD_SOURCES) $(CACHE)/kernels/%/release
	$(call copy-kmod,$(@D))
	$(MAKE) -C $(CACHE)/kernels/$*/build M=$(abspath $(@D)) CC=gcc BLKCBT_NO_GATE=1 W=1 modules >$(@D)/build.log 2>&1 || { cat $(@D)/build.log; exit 1; }

# Modules that only tests load, e.g. a live patch in the gate's place.
$(BUILD)/kmod/%-tests/klp_submit.ko: $(wildcard tests/vm/modules/*) $(CACHE)/kernels/%/release
	@mkdir -p $(@D) && cp -pu tests/vm/modules/* $(@D)/
	$(MAKE) -C $(CACHE)/kernels/$*/build M=$(abspath $(@D)) CC=gcc W=1 modules >$(@D)/build.log 2>&1 || { cat $(@D)/build.log; exit 1; }

$(BUILD)/kmod/%/blkcbt.ko: $(KMOD_SOURCES) $(CACHE)/kernels/%/release
	$(call copy-kmod,$(@D))
	$(MAKE) -C $(CACHE)/kernels/$*/build M=$(abspath $(@D)) CC=gcc W=1 modules >$(@D)/build.log 2>&1 || { cat $(@D)/build.log; exit 1; }

# With line counts, for make coverage. Rules with the longer fixed part win.
define gcov-kmod # kernel, more arguments of make
	$(call copy-kmod,$(@D))
	$(MAKE) -C $(CACHE)/kernels/$(1)/build M=$(abspath $(@D)) CC=gcc GCOV_PROFILE=y $(2) modules >$(@D)/build.log 2>&1 || { cat $(@D)/build.log; exit 1; }
endef

$(BUILD)/kmod/%-cov-faults/blkcbt.ko: $(KMOD_SOURCES) $(CACHE)/kernels/%/release
	$(call gcov-kmod,$*,BLKCBT_FAULTS=1)

$(BUILD)/kmod/%-cov/blkcbt.ko: $(KMOD_SOURCES) $(CACHE)/kernels/%/release
	$(call gcov-kmod,$*)

modules: $(foreach k,$(KERNELS),$(BUILD)/kmod/$(k)/blkcbt.ko $(BUILD)/kmod/$(k)-faults/blkcbt.ko)

# What the VM suite needs besides.
test-modules: $(foreach k,$(KERNELS),$(BUILD)/kmod/$(k)-nogate/blkcbt.ko $(BUILD)/kmod/$(k)-tests/klp_submit.ko)

# ---- tests ------------------------------------------------------------------
# A unit test or fuzzer names the sources it needs, besides the common library, in
# a comment "LINK: userspace/…/file.c …".
linked = $(shell sed -n 's/.*LINK: *\(.*\)/\1/p' $(1) | sed 's:\*/::')
objects = $(addprefix $(BUILD)/$(1)/,$(addsuffix .o,$(basename $(call linked,$(2)))))

unit: $(UNIT)
.SECONDEXPANSION:
$(BUILD)/unit/%: $(BUILD)/asan/tests/unit/%.o $$(call objects,asan,tests/unit/$$*.c) \
	$(BUILD)/asan/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) $(SANITIZE) -o $@ $(filter %.o %.a,$^) $(LIBS) -lcmocka

fuzzers: $(FUZZ)
$(BUILD)/fuzz/%: $(BUILD)/fuzzobj/tests/fuzz/%.o $$(call objects,fuzzobj,tests/fuzz/$$*.c) \
	$(BUILD)/fuzzobj/libcommon.a
	@mkdir -p $(@D)
	$(CLANG) $(CFLAGS_ALL) -fsanitize=address,undefined,fuzzer -o $@ $(filter %.o %.a,$^) $(LIBS)

tools: $(VMTOOLS) $(E2ETOOLS) $(BENCHTOOLS)
$(BUILD)/vm-tools/%: tests/vm/tools/%.c $(BUILD)/obj/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(PKG_CFLAGS) -MMD -MP -o $@ $< $(BUILD)/obj/libcommon.a $(LIBS)
$(BUILD)/e2e-tools/%: tests/e2e/tools/%.c $(BUILD)/obj/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(PKG_CFLAGS) -MMD -MP -o $@ $< $(BUILD)/obj/libcommon.a $(LIBS)
$(BUILD)/bench/%: tests/bench/%.c $(BUILD)/obj/libcommon.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS_ALL) $(CFLAGS_ALL) $(PKG_CFLAGS) -MMD -MP -o $@ $< $(BUILD)/obj/libcommon.a $(LIBS)

deps:
	scripts/install-deps build check test

# Each asks make again after the dependencies are there: pkg-config is read at start.
check:
	scripts/install-deps build check test
	scripts/check

check-unit check-e2e check-vm check-boot:
	scripts/install-deps build check test
	scripts/check $(@:check-%=%)

check-long:
	scripts/install-deps build check test
	scripts/check --long

kunit:
	scripts/install-deps build check test
	scripts/kunit

debug-kernels:
	scripts/install-deps debug
	scripts/build-debug-kernels

check-debug:
	scripts/install-deps build check test debug
	scripts/check-debug

coverage:
	scripts/install-deps build check test debug
	scripts/coverage

demo:
	scripts/install-deps build demo
	scripts/demo

demo-disaster:
	scripts/install-deps build demo
	scripts/demo-disaster

lint:
	scripts/install-deps build check test
	scripts/lint

bench:
	scripts/install-deps build check test
	tests/bench/run

FUZZ_SECONDS ?= 60
fuzz:
	scripts/install-deps build check test
	$(MAKE) fuzzers
	tests/fuzz/run $(FUZZ_SECONDS)

stress:
	scripts/stress

# ---- install ----------------------------------------------------------------
PREFIX ?= /usr
# Where nbdkit looks for it by its name.
PLUGINDIR ?= $(shell pkg-config --define-variable=prefix=$(PREFIX) --variable=plugindir nbdkit)
install: all
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/bin $(BUILD)/bin/reprotect
	install -D -m 755 -t $(DESTDIR)$(PREFIX)/sbin $(addprefix $(BUILD)/bin/reprotect-,$(DAEMONS) early)
	install -D -m 644 -t $(DESTDIR)$(PLUGINDIR) $(PLUGIN)
	install -D -m 755 initramfs/hooks/reprotect $(DESTDIR)$(PREFIX)/share/initramfs-tools/hooks/reprotect
	for when in init-premount local-premount local-block local-bottom; do \
		install -D -m 755 initramfs/scripts/reprotect $(DESTDIR)$(PREFIX)/share/initramfs-tools/scripts/$$when/reprotect || exit; done
	install -D -m 644 -t $(DESTDIR)/lib/systemd/system $(wildcard userspace/*/*.service)
	install -D -m 600 -t $(DESTDIR)/etc/reprotect $(wildcard userspace/*/*.conf)
	install -d -m 755 $(DESTDIR)/etc/reprotect/app.d
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/reprotect/app.d $(wildcard userspace/agent/app.d/*)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man8 $(wildcard docs/man/*.8)
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(wildcard docs/man/*.1)
	install -D -m 644 userspace/cli/reprotect.bash-completion $(DESTDIR)$(PREFIX)/share/bash-completion/completions/reprotect
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/include/linux uapi/linux/blkcbt.h

clean:
	rm -rf $(BUILD)

help:
	@echo "make              programs into build/bin"
	@echo "make module       blkcbt.ko for KDIR=$(KDIR)"
	@echo "make modules      blkcbt.ko for every kernel of the matrix: $(KERNELS)"
	@echo "make install      programs, units, man pages (DESTDIR, PREFIX)"
	@echo "make demo         boots a VM, replicates its disks, fails back, boots from them"
	@echo "make demo-disaster  the same VM, a disaster, rolled back to one second before it, and booted from the disks"
	@echo "make check        unit, end-to-end, VM and boot tests (check-unit, check-e2e, check-vm, check-boot: one part)"
	@echo "make kunit        tests/kunit in KUnit, on user-mode Linux with KASAN (builds it once, minutes)"
	@echo "make check-long   the same with the full counts (hours)"
	@echo "make check-debug  the VM tests and a stress run on kernels with KASAN, lockdep, KCSAN (builds them: make debug-kernels)"
	@echo "make coverage     which lines of kmod/ the VM tests run; build/coverage.txt"
	@echo "make lint         compiler warnings, sparse, checkpatch, clang-tidy, cppcheck, shellcheck"
	@echo "make bench        figures as ratios; build/bench.json"
	@echo "make fuzz         FUZZ_SECONDS=$(FUZZ_SECONDS) for each decoder"
	@echo "make stress       fio jobs with tracking on a real machine (TARGET=/dev/..., MINUTES=...)"

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
