// SPDX-License-Identifier: GPL-2.0
/*
 * A page is sealed again and again while another vCPU writes it without a pause,
 * the VMM takes its memslot away and puts it back, and saves the VM. Once SEAL
 * has returned, no write lands.
 *
 * virt/kvm/heki/policy/tests/interleavings.rs has the same actors and goes through
 * all their orders; this is the code itself, and the orders that happen.
 */
#include <pthread.h>

#include "kvm_test_harness.h"
#include "heki.h"

#define SEALER		0
#define WRITER		1
#define NR_VCPUS	2
#define NR_ROUNDS	30
#define PAGE		0
#define SLOT_BYTES	(HEKI_TEST_PAGES * PAGE_SIZE)

FIXTURE(race) {
	struct heki_vm h;
	void *slot;
	bool stop;
	u64 nr_changes;		/* times that the slot was away */
	u64 nr_saves;
	u64 nr_bad_saves;
};

FIXTURE_SETUP(race)
{
	heki_vm_create(&self->h, NR_VCPUS);
	self->slot = heki_hva(&self->h, HEKI_TEST_GPA);
	self->stop = false;
	self->nr_changes = 0;
	self->nr_saves = 0;
	self->nr_bad_saves = 0;
}

FIXTURE_TEARDOWN(race)
{
	heki_vm_free(&self->h);
}

/* arg[0]: address. Interrupts are on, or some emulators cannot take the vCPU out of the guest. */
static u64 guest_write_until_denied(u64 *arg)
{
	u64 i;

	sti();
	for (i = 1; !guest_write((u64[]){ arg[0], i }); i++)
		;
	cli();
	return i;
}

/* While the slot is away, a write is one to a device, which there is not. */
static void *write_until_denied(void *arg)
{
	struct kvm_vcpu *vcpu = arg;

	heki_prepare_call(vcpu, guest_write_until_denied,
			  (u64[HEKI_NR_ARGS]){ HEKI_PAGE(PAGE) });
	do {
		vcpu_run(vcpu);
	} while (vcpu->run->exit_reason == KVM_EXIT_MMIO);
	heki_finish_call(vcpu);
	return NULL;
}

static void *change_slot(void *arg)
{
	FIXTURE_DATA(race) *self = arg;
	struct kvm_vm *vm = self->h.vm;

	while (!READ_ONCE(self->stop)) {
		vm_set_user_memory_region(vm, HEKI_TEST_SLOT, 0, HEKI_TEST_GPA, 0, NULL);
		vm_set_user_memory_region(vm, HEKI_TEST_SLOT, 0, HEKI_TEST_GPA, SLOT_BYTES,
					  self->slot);
		self->nr_changes++;
		usleep(1000);
	}
	return NULL;
}

/* What KVM says while a vCPU is in it, or when the state grew since it was asked. */
static bool is_no_surprise(int error)
{
	return error == EBUSY || error == E2BIG;
}

static void *save_state(void *arg)
{
	FIXTURE_DATA(race) *self = arg;
	u64 state[512];
	struct heki_buffer buffer;

	while (!READ_ONCE(self->stop)) {
		buffer = (struct heki_buffer){ .data = (u64)state, .len = sizeof(state) };
		if (!__kvm_device_attr_get(self->h.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_STATE,
					   &buffer)) {
			self->nr_saves++;
			self->nr_bad_saves += state[0] != HEKI_SAVED_MAGIC;
		} else {
			self->nr_bad_saves += !is_no_surprise(errno);
		}
		usleep(500);
	}
	return NULL;
}

/* A page without a slot is refused: until there is one. */
static void seal_until_done(struct heki_vm *h)
{
	int i;

	heki_add_page(heki_begin_request(h, 0), PAGE);
	for (i = 0; i < 10000; i++) {
		if (!heki_send(h, h->vcpu[SEALER]))
			return;
	}
	TEST_FAIL("No SEAL takes effect");
}

static void reset_until_done(struct heki_vm *h)
{
	while (__kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL))
		TEST_ASSERT(errno == EBUSY, "RESET fails: %s", strerror(errno));
}

HEKI_TEST(race, no_write_lands_after_a_seal)
{
	struct heki_vm *h = &self->h;
	pthread_t slots, saver, writer;
	u64 last;
	int i;

	ASSERT_EQ(0, pthread_create(&slots, NULL, change_slot, self));
	ASSERT_EQ(0, pthread_create(&saver, NULL, save_state, self));
	for (i = 0; i < NR_ROUNDS; i++) {
		heki_poke(h, HEKI_PAGE(PAGE), HEKI_CALM);
		ASSERT_EQ(0, pthread_create(&writer, NULL, write_until_denied, h->vcpu[WRITER]));
		while (heki_peek(h, HEKI_PAGE(PAGE)) == HEKI_CALM)
			usleep(100);

		seal_until_done(h);
		last = heki_peek(h, HEKI_PAGE(PAGE));
		pthread_join(writer, NULL);
		EXPECT_EQ(last, heki_peek(h, HEKI_PAGE(PAGE)));
		EXPECT_EQ(i + 1, vcpu_get_stat(h->vcpu[WRITER], heki_denied_write));
		EXPECT_TRUE(heki_is_sealed(h, h->vcpu[SEALER], PAGE));
		reset_until_done(h);
	}
	/* No vCPU keeps the state from being saved now. */
	while (!READ_ONCE(self->nr_saves))
		usleep(100);
	WRITE_ONCE(self->stop, true);
	pthread_join(slots, NULL);
	pthread_join(saver, NULL);
	EXPECT_EQ(NR_ROUNDS, vcpu_get_stat(h->vcpu[SEALER], heki_seal));
	EXPECT_LT(0, self->nr_changes);
	EXPECT_LT(0, self->nr_saves);
	EXPECT_EQ(0, self->nr_bad_saves);
}

int main(int argc, char *argv[])
{
	heki_require();
	return test_harness_run(argc, argv);
}
