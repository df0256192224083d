/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Unit tests of conf.c: good files are read whole, bad ones name file, line and remedy. */
#include "conf.h"
#include "util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct disk {
	char name[32];
	char *device;
	uint64_t granule;
};

struct config {
	char *server;
	uint64_t slice, interval, count;
	bool freeze;
	int ack;
	struct disk disks[2];
	unsigned disk_count;
};

static const char *const acks[] = { "spooled", "applied", NULL };

static const struct conf_key keys[] = {
	{ "agent", "server", CONF_STRING, offsetof(struct config, server), "127.0.0.1:9000", 0, 0,
	  NULL, "" },
	{ "agent", "slice", CONF_BYTES, offsetof(struct config, slice), "256M", 4096, 1ull << 40,
	  NULL, "" },
	{ "agent", "interval", CONF_MS, offsetof(struct config, interval), "5s", 100, 3600000, NULL,
	  "" },
	{ "agent", "count", CONF_NUMBER, offsetof(struct config, count), NULL, 0, 0, NULL, "" },
	{ "agent", "freeze", CONF_BOOL, offsetof(struct config, freeze), "yes", 0, 0, NULL, "" },
	{ "agent", "ack", CONF_CHOICE, offsetof(struct config, ack), "applied", 0, 0, acks, "" },
	{ "disk", "device", CONF_STRING, offsetof(struct disk, device), NULL, 0, 0, NULL, "" },
	{ "disk", "granule", CONF_BYTES, offsetof(struct disk, granule), "4K", 4096, 1 << 20, NULL,
	  "" },
	{ 0 },
};

static void *section(void *user, const char *kind, const char *name)
{
	struct config *config = user;

	if (!strcmp(kind, "agent"))
		return name ? NULL : config;
	if (!name || config->disk_count == ARRAY_LENGTH(config->disks))
		return NULL;
	snprintf(config->disks[config->disk_count].name, 32, "%s", name);
	return &config->disks[config->disk_count++];
}

static const struct conf_schema schema = { keys, section };
static char error[256];

static int load(const char *text, struct config *config)
{
	*config = (struct config){ 0 };
	return conf_load_text(&schema, "t.conf", text, config, error, sizeof(error));
}

static void unload(struct config *config)
{
	conf_free(&schema, "agent", config);
	for (unsigned i = 0; i < config->disk_count; i++)
		conf_free(&schema, "disk", &config->disks[i]);
}

static void good_file(void **state)
{
	struct config config;

	(void)state;
	assert_int_equal(load("# a comment\n\n[agent]\nserver = 10.0.0.1:7 ; said so\n"
			      "slice=1G\ninterval = 300ms\ncount = 7\nfreeze = off\nack = Spooled\n"
			      "  ; indented comment\n[disk root]\n[disk data]\ndevice = "
			      "/dev/vdb\r\n"
			      "granule = 64 KiB\n",
			      &config),
			 0);
	assert_string_equal(error, "");
	assert_string_equal(config.server, "10.0.0.1:7");
	assert_true(config.slice == GIB);
	assert_true(config.interval == 300);
	assert_true(config.count == 7);
	assert_false(config.freeze);
	assert_int_equal(config.ack, 0);
	assert_int_equal(config.disk_count, 2);
	assert_string_equal(config.disks[0].name, "root");
	assert_null(config.disks[0].device);
	assert_true(config.disks[0].granule == 4096);
	assert_string_equal(config.disks[1].device, "/dev/vdb");
	assert_true(config.disks[1].granule == 65536);
	unload(&config);
}

static void defaults(void **state)
{
	struct config config = { 0 };

	(void)state;
	conf_defaults(&schema, "agent", &config);
	conf_defaults(&schema, "agent", &config); /* again: nothing leaks */
	assert_string_equal(config.server, "127.0.0.1:9000");
	assert_true(config.slice == 256 * MIB);
	assert_true(config.interval == 5000);
	assert_true(config.freeze);
	assert_int_equal(config.ack, 1);
	assert_true(config.count == 0);
	unload(&config);
}

static void bad_files(void **state)
{
	static const struct {
		const char *text, *message;
	} bad[] = {
		{ "[agent]\nslcie = 1\n", "t.conf:2: there is no key slcie in section [agent]" },
		{ "[agnet]\n", "t.conf:1: there is no section [agnet]" },
		{ "\n[agent x]\n", "t.conf:2: there is no section [agent x]" },
		{ "[disk]\n", "needs a name" },
		{ "[disk a]\n[disk b]\n[disk c]\n", "t.conf:3: there is no section [disk c]" },
		{ "[agent]\n[agent]\n", "twice" },
		{ "[agent]\ncount = 1\ncount = 2\n", "t.conf:3: key count is there twice" },
		{ "[agent]\nslice = 12Q\n", "t.conf:2: slice = 12Q: must be a size" },
		{ "[agent]\nslice = 1K\n", "must lie between 4 KiB and 1 TiB" },
		{ "[agent]\ninterval = 2h\n", "must lie between 100ms and 3600s" },
		{ "[agent]\ncount = -1\n", "whole number" },
		{ "[agent]\ncount = 99999999999999999999\n", "whole number" },
		{ "[agent]\nslice = 99999999999T\n", "must be a size" },
		{ "[agent]\nfreeze = maybe\n", "yes or no" },
		{ "[agent]\nack = sent\n", "one of spooled, applied" },
		{ "[agent]\nserver = a # b\n", "begins with ' ;'" },
		{ "[agent]\nnonsense\n", "t.conf:2: neither" },
		{ "[agent]\nserver = a\n  b\n", "t.conf:3: line begins with a blank" },
		{ "count = 1\n", "before any section" },
		{ "[agent\n", "without ']'" },
		{ "[agent] x\n", "after the section heading" },
		{ "[]\n", "without a name" },
		{ "[disk 0123456789012345678901234567890123456789012345678901234567890]\n", "longer than" },
	};
	char text[512];
	struct config config;

	(void)state;
	for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
		assert_true(load(bad[i].text, &config) < 0);
		if (!strstr(error, bad[i].message))
			fail_msg("\"%s\" said \"%s\"", bad[i].text, error);
		unload(&config);
	}
	snprintf(text, sizeof(text), "[agent]\nserver = %0300d\n", 1);
	assert_true(load(text, &config) < 0);
	assert_non_null(strstr(error, "t.conf:2: line is longer"));
	unload(&config);
}

static void missing_file(void **state)
{
	struct config config = { 0 };

	(void)state;
	assert_int_equal(conf_load(&schema, "/nonexistent/x.conf", &config, error, sizeof(error)),
			 -ENOENT);
	assert_non_null(strstr(error, "/nonexistent/x.conf"));
	assert_int_equal(conf_load(&schema, "/", &config, error, sizeof(error)), -EISDIR);
}

static void sizes_and_times(void **state)
{
	uint64_t value;
	char out[32];

	(void)state;
	assert_int_equal(conf_parse_bytes("0", &value), 0);
	assert_int_equal(conf_parse_bytes("3t", &value), 0);
	assert_true(value == 3072 * GIB);
	assert_int_equal(conf_parse_bytes("", &value), -EINVAL);
	assert_int_equal(conf_parse_bytes("1.5G", &value), -EINVAL);
	assert_int_equal(conf_parse_bytes(" 1", &value), -EINVAL);
	assert_int_equal(conf_parse_bytes("1KK", &value), -EINVAL);
	assert_int_equal(conf_parse_ms("10min", &value), 0);
	assert_true(value == 600000);
	assert_int_equal(conf_parse_ms("2", &value), 0);
	assert_true(value == 2000);
	assert_int_equal(conf_parse_ms("2x", &value), -EINVAL);
	assert_string_equal(conf_format_bytes(0, out, sizeof(out)), "0 B");
	assert_string_equal(conf_format_bytes(1536 * MIB, out, sizeof(out)), "1.5 GiB");
	assert_string_equal(conf_format_bytes(4096, out, sizeof(out)), "4 KiB");
	assert_string_equal(conf_format_bytes(UINT64_MAX, out, sizeof(out)), "16.0 EiB");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_file),	cmocka_unit_test(defaults),
		cmocka_unit_test(bad_files),	cmocka_unit_test(missing_file),
		cmocka_unit_test(sizes_and_times),
	};

	return cmocka_run_group_tests_name("conf", tests, NULL, NULL);
}
