// SPDX-License-Identifier: GPL-2.0-or-later
/* module_load: see module_load.h. */
#include "module_load.h"

#include <errno.h>
#include <libkmod.h>
#include <stddef.h>

int module_load(struct kmod_ctx *context, const char *name)
{
	struct kmod_list *list = NULL, *item;
	int error = kmod_module_new_from_lookup(context, name, &list);

	if (!error && !list)
		error = -ENOENT;
	kmod_list_foreach(item, list) {
		struct kmod_module *module = kmod_module_get_module(item);

		if (!error)
			error = kmod_module_probe_insert_module(module, 0, NULL, NULL, NULL, NULL);
		kmod_module_unref(module);
	}
	kmod_module_unref_list(list);
	if (error == -EEXIST)
		return 0;
	return error > 0 ? -EPERM : error; /* above 0: a blacklist stands against it */
}
