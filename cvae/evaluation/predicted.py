"""How well factors can be predicted from latents: SAP, DCI, explicitness and beta-VAE's score. Needs scikit-learn.

Codes come standardized: each latent has mean 0 and standard deviation 1. `train` and `test` are codes (N, D) and
factors (N, F), the numbers of their values from 0.
"""

from typing import Any

import numpy as np

from cvae.evaluation.fixed_factors import POINTS, differences
from cvae.evaluation.information import entropy, gap

Points = tuple[np.ndarray, np.ndarray]

TREES = 2000  # points that boosted trees learn from: 100 trees for each of 32 values take 15 s a factor
LASSO = 4  # the weight of the absolute coefficients, in standard errors of one of them: of noise all are 0
TINY = 1e-11  # of a share, so that none is 0


def learned(model: Any, z: np.ndarray, factor: np.ndarray) -> Any:
    """A classifier of scikit-learn's that has learned; one that always says the same if there is one value to learn.

    A draw may lack the rare values of a factor, of 10 images each, and scikit-learn refuses to learn a single value.
    """
    from sklearn.dummy import DummyClassifier

    return (model if np.ptp(factor) else DummyClassifier()).fit(z, factor)


def sap(train: Points, test: Points) -> float:
    """The separated attribute predictability score (Kumar et al. 2018, section 3), for factors that are classes.

    How well a linear support vector machine predicts a factor from one latent (the share of test points that is right),
    and how far the best latent is above the second; the mean over the factors. C = 0.01 and classes of equal weight, as
    Locatello et al. (2019). From one latent such machines tell the outermost values of a factor from the others, and
    few in between: with 32 values even the factor itself has a score near 0. `sap_of_lines` has no such limit.
    """
    from sklearn.svm import LinearSVC

    (z, factors), (z_test, factors_test) = train, test
    scores = np.empty((z.shape[1], factors.shape[1]))
    for d in range(z.shape[1]):
        for f, factor in enumerate(factors.T):
            machine = learned(LinearSVC(C=0.01, class_weight="balanced"), z[:, [d]], factor)
            scores[d, f] = machine.score(z_test[:, [d]], factors_test[:, f])
    return float(gap(scores).mean())


def concentration(importance: np.ndarray) -> float:
    """How near to one entry each row of an importance (R, C) is, 1 - entropy / log C, weighted by the rows' sums.

    Of importances (D, F) that is DCI's disentanglement, of their transpose its completeness (Eastwood and Williams
    2018, section 2). 0 where all is 0.
    """
    weights = importance.sum(1)
    if importance.shape[1] == 1 or not weights.any():
        return float(weights.any())
    each = 1 - entropy(importance + TINY) / np.log(importance.shape[1])
    return float((each * weights).sum() / weights.sum())


def dci_trees(train: Points, test: Points, seed: int) -> tuple[float, float, float]:
    """DCI by boosted trees: (disentanglement, completeness, informativeness), each from 0 to 1.

    A latent's importance is how much the splits by it lower the trees' loss, as scikit-learn sums it. Informativeness
    is the share of the test points whose factor is predicted right, the mean over the factors: chance is 1 / values.
    The first TREES points are learned from, and half as many are for testing. Trees are scikit-learn's 100 of depth 3
    for each value, as Locatello et al. (2019).
    """
    from joblib import Parallel, delayed
    from sklearn.ensemble import GradientBoostingClassifier

    (z, factors), (z_test, factors_test) = [(z[:n], f[:n]) for (z, f), n in ((train, TREES), (test, TREES // 2))]

    def fit(f: int) -> tuple[np.ndarray, float]:
        trees = learned(GradientBoostingClassifier(random_state=seed), z, factors[:, f])
        importance = getattr(trees, "feature_importances_", np.zeros(z.shape[1]))
        return importance, trees.score(z_test, factors_test[:, f])

    fitted = Parallel(n_jobs=-1, prefer="threads")(delayed(fit)(f) for f in range(factors.shape[1]))
    importance = np.stack([of for of, _ in fitted], 1)
    right = float(np.mean([score for _, score in fitted]))
    return concentration(importance), concentration(importance.T), right


def dci_lasso(train: Points, test: Points) -> tuple[float, float, float]:
    """DCI by lasso: (disentanglement, completeness, informativeness).

    A latent's importance is its absolute coefficient in a linear regression of the number of a factor's value, of
    variance 1; the loss has LASSO / sqrt(N) times their sum, too. Informativeness is R², the share of the
    test points' variance that is predicted, at least 0; the mean over the factors. It takes the order of a factor's
    values as given: of a factor that has none, as a shape, or that goes in a circle, it sees what is linear in it.
    """
    from sklearn.linear_model import Lasso

    (z, factors), (z_test, factors_test) = train, test
    mean, scale = factors.mean(0), factors.std(0)
    lines = [Lasso(alpha=LASSO / len(z) ** 0.5).fit(z, factor) for factor in ((factors - mean) / scale).T]
    told = [line.score(z_test, factor) for line, factor in zip(lines, ((factors_test - mean) / scale).T, strict=True)]
    importance = np.abs([line.coef_ for line in lines]).T
    return concentration(importance), concentration(importance.T), float(np.maximum(told, 0).mean())


def logistic(z: np.ndarray, of: np.ndarray) -> Any:
    """A logistic regression with scikit-learn's weight decay, C = 1."""
    from sklearn.linear_model import LogisticRegression

    return learned(LogisticRegression(max_iter=1000), z, of)


def explicitness(train: Points, test: Points) -> float:
    """How well a linear classifier tells each value of each factor (Ridgeway and Mozer 2018, section 2.2): 0.5 to 1.

    The area under the ROC curve of a value against the others, the mean over values, then over factors; 0.5 is chance.
    By one logistic regression for all values of a factor.
    """
    from sklearn.metrics import roc_auc_score

    scores = []
    for factor, tested in zip(train[1].T, test[1].T, strict=True):
        classifier = logistic(train[0], factor)
        chances = classifier.predict_proba(test[0])
        values = [(chances[:, k], tested == value) for k, value in enumerate(classifier.classes_)]
        areas = [roc_auc_score(is_it, chance) for chance, is_it in values if is_it.any() and not is_it.all()]
        scores.append(np.mean(areas or [0.5]))
    return float(np.mean(scores))


def beta_vae(train: Points, test: Points, rng: np.random.Generator) -> float:
    """beta-VAE's score (Higgins et al. 2017, section 3): which factor do pairs share, by their mean difference?

    The share of right answers of a logistic regression that learned from POINTS points of `train`, on half as many of
    `test`: from about 1 / F to 1.
    """
    return float(logistic(*differences(*train, POINTS, rng)).score(*differences(*test, POINTS // 2, rng)))
