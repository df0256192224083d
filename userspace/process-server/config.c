// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * config: the table of keys of process-server.conf. Called by main.c; promises that a config
 * it accepts is whole and within bounds.
 */
#include "server.h"
#include "conf.h"
#include "util.h"

#include <errno.h>
#include <string.h>

#define PS "process-server"
#define KEY(member) offsetof(struct config, member)

static const char *const engines[] = { "auto", "io_uring", "libaio", NULL };

static const struct conf_key keys[] = {
	{ PS, "listen", CONF_STRING, KEY(listen), "127.0.0.1:9911", 0, 0, NULL, "address for agents; loopback only" },
	{ PS, "master_target", CONF_STRING, KEY(master_target), NULL, 0, 0, NULL, "address of the master target" },
	{ PS, "spool", CONF_STRING, KEY(spool), "/var/lib/reprotect/process-server", 0, 0, NULL,
	  "directory of what is not applied yet" },
	{ PS, "spool_bytes", CONF_BYTES, KEY(spool_bytes), "10G", 32 * MIB, 1024 * 1024 * GIB, NULL,
	  "most that the spool may take, all machines together" },
	{ PS, "control", CONF_STRING, KEY(control), CONTROL_DIR "/process-server.sock", 0, 0, NULL,
	  "socket for the command line" },
	{ PS, "window_bytes", CONF_BYTES, KEY(window_bytes), "8M", 4 * MIB, 256 * MIB, NULL,
	  "memory of each connected machine for data on their way; a power of two" },
	{ PS, "max_machines", CONF_NUMBER, KEY(max_machines), "64", 1, 1024, NULL, "machines that are served at most" },
	{ PS, "direct_io", CONF_BOOL, KEY(direct_io), "yes", 0, 0, NULL, "write the spool past the page cache" },
	{ PS, "engine", CONF_CHOICE, KEY(engine), "auto", 0, 0, engines,
	  "how the spool is written: auto, io_uring or libaio" },
	{ NULL, NULL, CONF_STRING, 0, NULL, 0, 0, NULL, NULL },
};

static void *section(void *config, const char *kind, const char *name)
{
	return strcmp(kind, PS) || (name && *name) ? NULL : config;
}

static const struct conf_schema schema = { .keys = keys, .section = section };

int config_load(struct config *config, const char *path, char *error, size_t error_bytes)
{
	int r = 0;

	memset(config, 0, sizeof(*config));
	if (path)
		r = conf_load(&schema, path, config, error, error_bytes);
	if (!r && !config->listen) /* no file, or no such section in it */
		conf_defaults(&schema, PS, config);
	return r;
}

int config_check(struct config *config, const char *path, char *error, size_t error_bytes)
{
	if (!config->master_target || !*config->master_target) {
		snprintf(error, error_bytes, "%s: master_target is missing (write master_target = HOST:PORT, or give "
			 "--master-target)", path);
		return -EINVAL;
	}
	if (!config->spool || config->spool[0] != '/' || !config->control || config->control[0] != '/') {
		snprintf(error, error_bytes, "%s: spool and control must be absolute paths", path);
		return -EINVAL;
	}
	if (config->window_bytes & (config->window_bytes - 1)) {
		snprintf(error, error_bytes, "%s: window_bytes = %llu: not a power of two (4M, 8M, 16M ...)", path,
			 (unsigned long long)config->window_bytes);
		return -EINVAL;
	}
	return 0;
}

void config_free(struct config *config)
{
	conf_free(&schema, PS, config);
}
