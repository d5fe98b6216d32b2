import pytest

from atlas_fast.training import Schedule


def follow(accuracies, **options):
    schedule = Schedule(**{"lr": 1.0, "epochs": 100, "ramp_epochs": 0, **options})
    rates = []
    for accuracy in accuracies:
        rates.append(schedule.lr)
        schedule.update(accuracy)
        if schedule.finished:
            break
    return schedule, rates


def test_scripted_accuracies_give_the_rates_and_the_end():
    accuracies = [0.10, 0.20, 0.20, 0.30, 0.25, 0.25, 0.26, 0.31] + [0.1] * 20
    schedule, rates = follow(accuracies)
    # Epoch 3 is bad, 4 better; 5 and 6 bad: divided by 5 from epoch 7 on; 7 bad; 8 the best; then ten bad ones,
    # whose 2nd, 4th, 6th and 8th divide.
    expected = [1] * 6 + [0.2] * 4 + [0.04] * 2 + [0.008] * 2 + [0.0016] * 2 + [0.00032] * 2
    assert rates == pytest.approx(expected)
    assert schedule.epoch == 18 and schedule.best_epoch == 8 and schedule.best == 0.31


def test_nothing_counts_during_the_ramp():
    schedule, rates = follow([0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.5], ramp_epochs=4)
    assert schedule.best_epoch == 5 and schedule.best == 0.5
    assert rates == [1.0] * 7 and schedule.lr == pytest.approx(0.2)


def test_plateau_epochs():
    _, rates = follow([0.5] + [0.1] * 20, plateau_epochs=4)
    assert rates == pytest.approx([1] * 5 + [0.2] * 4 + [0.04] * 2)


def test_ends_with_the_epochs():
    schedule, rates = follow([0.1 * i for i in range(20)], epochs=6)
    assert len(rates) == 6 and schedule.finished and schedule.lr == 1.0


def test_all_ramp_counts_nothing():
    schedule, _ = follow([0.5] * 3, epochs=3, ramp_epochs=3)
    assert schedule.finished and schedule.best_epoch is None


def test_ramp_rises_per_step_and_is_final_at_its_end():
    schedule = Schedule(1.0, epochs=30, ramp_epochs=15)
    assert schedule.ramp(0) == 0
    assert schedule.ramp(7.5) == 0.5
    assert schedule.ramp(14.99) < 1
    assert schedule.ramp(15) == schedule.ramp(29.5) == 1
    assert Schedule(1.0, 12, 0).ramp(0) == 1


def test_state_round_trip():
    first = Schedule(1.0, 100, 2)
    accuracies = [0.1, 0.2, 0.5, 0.4, 0.4, 0.4, 0.6, 0.1, 0.1]
    for accuracy in accuracies[:5]:
        first.update(accuracy)
    second = Schedule(1.0, 100, 2)
    second.load_state_dict(first.state_dict())
    for accuracy in accuracies[5:]:
        assert first.update(accuracy) == second.update(accuracy)
        assert first.state_dict() == second.state_dict()


def test_a_fixed_schedule_falls_at_its_epochs_and_trains_them_all():
    accuracies = [0.1] * 16 + [0.5] + [0.3] * 60
    schedule, rates = follow(accuracies, epochs=70, ramp_epochs=15, fixed=True)
    assert len(rates) == 70 and schedule.finished and schedule.best_epoch == 17 and schedule.best == 0.5
    falls = {epoch: rate for epoch, rate in enumerate(rates, 1) if epoch == 1 or rate != rates[epoch - 2]}
    assert falls == pytest.approx({1: 1.0, 39: 0.1, 53: 0.01, 64: 1e-3})  # after 38, 52 and 63: 55, 75, 90% of 70
